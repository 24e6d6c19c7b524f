package interceptors

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// StreamInterceptor returns the interceptor of streaming calls, for chains that
// are put together by hand. Put it first.
func (s *Server) StreamInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		if s.installedTwice(ss.Context(), info.FullMethod) {
			return handler(srv, ss)
		}
		in := s.admit(ss.Context(), info.FullMethod, srv != nil, false)
		ended := false
		defer func() {
			if !ended { // it may yet be recovered, and then replied to
				in.report(errPanicked)
			}
		}()
		if err = in.refusal; err == nil {
			stream := in.stream(ss)
			stream.lends = info.IsServerStream && in.request.hop && in.mode == Enforce
			defer stream.stop()
			err = stream.explain(handler(srv, stream))
		}
		ended = true
		in.report(err)
		return err
	}
}

// serverStream is a stream as its handler holds it.
//
// gRPC lets go of a handler that waits for a message, or for room to send one,
// only by its own deadline or when the client is gone. Where there is another
// limit, the wait is left to a goroutine, which ends when the handler returns
// and gRPC closes the stream.
type serverStream struct {
	grpc.ServerStream
	in        *incoming
	limited   bool        // there is another limit
	cut       atomic.Bool // it has kept the handler from sending or receiving
	interrupt context.CancelCauseFunc
	idle      *idleTimer // nil if there is no limit

	lends    bool // its caller lent it tokens, which go back with the first response
	released atomic.Bool
}

// What interrupts a stream, beside its deadline and its client.
var (
	errIdle        = newError(codes.DeadlineExceeded, ReasonStreamIdle, "no message has gone either way for longer than the server allows")
	errSendTimeout = newError(codes.DeadlineExceeded, ReasonSendTimeout, "the client has not made room for a message in time")
	errExpired     = newError(codes.DeadlineExceeded, ReasonDeadlineExpired, "the deadline has passed")
)

// stream wraps a stream for its handler.
func (in *incoming) stream(ss grpc.ServerStream) *serverStream {
	s := &serverStream{ServerStream: ss, in: in, limited: in.cancel != nil}
	limits := &in.method.limits
	idle := limits.StreamIdle > 0 && in.mode == Enforce
	if idle || limits.StreamSendTimeout > 0 && in.mode == Enforce {
		s.limited = true
		ctx, cancel := context.WithCancelCause(in.request.Context)
		in.request.in(ctx)
		s.interrupt = cancel
	}
	if idle {
		s.idle = newIdleTimer(limits.StreamIdle, func() { s.interrupt(errIdle) })
	}
	return s
}

// Context returns the handler's context.
func (s *serverStream) Context() context.Context { return &s.in.request }

// RecvMsg receives a message.
func (s *serverStream) RecvMsg(m any) error {
	if !s.limited {
		return s.ServerStream.RecvMsg(m)
	}
	if !isMessage(m) {
		return s.wait(0, func() error { return s.ServerStream.RecvMsg(m) })
	}
	own := newLike(m) // m is the handler's again when the wait is cut short
	err := s.wait(0, func() error { return s.ServerStream.RecvMsg(own) })
	if err == nil {
		copyMessage(m, own)
	}
	return err
}

// SendHeader sends the header.
func (s *serverStream) SendHeader(md metadata.MD) error {
	s.release()
	return s.ServerStream.SendHeader(md)
}

// release gives tokens back to the caller when the first response is about to be sent,
// and says so in the header.
func (s *serverStream) release() {
	if !s.lends || s.released.Swap(true) {
		return
	}
	if used, released := s.in.request.allotment.Release(); released {
		r := wire.Report{Used: used}
		_ = s.SetHeader(metadata.Pairs(wire.ReportKey, string(r.Append(nil)))) // fails if it was sent
	}
}

// SendMsg sends a message.
func (s *serverStream) SendMsg(m any) error {
	s.release()
	if !s.limited {
		return s.ServerStream.SendMsg(m)
	}
	return s.wait(s.in.method.limits.StreamSendTimeout, func() error { return s.ServerStream.SendMsg(m) })
}

// waited is what came of a wait.
type waited struct {
	err      error
	returned bool
	panicked any
}

// wait runs what may have to wait, for as long as the limits allow. If it panics,
// that goes on in the handler.
func (s *serverStream) wait(timeout time.Duration, run func() error) error {
	ctx := s.Context()
	if ctx.Err() != nil {
		return s.interruption(ctx)
	}
	done := make(chan waited, 1)
	go func() {
		var w waited
		defer func() {
			if !w.returned {
				w.panicked = recover()
			}
			done <- w
		}()
		w.err = run()
		w.returned = true
	}()
	if timeout > 0 && s.interrupt != nil {
		timer := time.AfterFunc(timeout, func() { s.interrupt(errSendTimeout) })
		defer timer.Stop()
	}
	select {
	case w := <-done:
		if !w.returned {
			panic(w.panicked)
		}
		s.idle.touch()
		return w.err
	case <-ctx.Done():
		return s.interruption(ctx)
	}
}

// interruption returns the error by which a stream was interrupted.
func (s *serverStream) interruption(ctx context.Context) error {
	s.cut.Store(true)
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errIdle), errors.Is(cause, errSendTimeout):
		return cause
	case errors.Is(cause, context.DeadlineExceeded):
		return errExpired
	default:
		return cancelledError()
	}
}

// explain returns the error of a handler, which is that of its interruption if
// there was one: what the handler made of it tells the client less, and if it
// made a success of it, nothing.
func (s *serverStream) explain(err error) error {
	if !s.limited {
		return err
	}
	cause := context.Cause(s.Context())
	switch {
	case errors.Is(cause, errIdle), errors.Is(cause, errSendTimeout):
		return cause
	case errors.Is(cause, context.DeadlineExceeded) && s.cut.Load():
		return errExpired
	default:
		return err
	}
}

// stop releases what the limits hold.
func (s *serverStream) stop() {
	s.idle.stop()
	if s.interrupt != nil {
		s.interrupt(nil)
	}
}

// idleTimer runs a function when it has not been touched for a while. A nil
// idleTimer does nothing.
type idleTimer struct {
	limit time.Duration

	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

func newIdleTimer(limit time.Duration, run func()) *idleTimer {
	return &idleTimer{limit: limit, timer: time.AfterFunc(limit, run)}
}

func (t *idleTimer) touch() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.timer.Reset(t.limit)
	}
}

func (t *idleTimer) stop() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	t.timer.Stop()
}
