package inbound

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// streamLimits are the limits of one stream that gRPC does not enforce: a deadline earlier than gRPC's
// (of the server, or of the caller's hop-context), a limit on idle time, and a timeout of sends.
//
// A stream is open, cut or over. It is cut when a limit is reached: its context ends, and the stream
// itself ends with the status of the limit, so that a pending RecvMsg or SendMsg of the handler returns. No
// other public method of gRPC ends such a call. If the deadline passes while no such call is pending, the
// stream is cut at the handler's next call; until then, the handler may succeed. A stream is over when its
// handler has returned.
//
// For each message, a counter is changed and a time is stored. Each stream has one timer.
type streamLimits struct {
	call       *call
	idle, send time.Duration // 0 is no limit
	cancel     context.CancelCauseFunc
	unwatch    func() bool // ends the watch of the deadline

	waiting atomic.Int32 // pending calls of RecvMsg and SendMsg
	last    atomic.Int64 // when a message was last sent or received, in ns since the call arrived
	sending atomic.Int64 // when the pending SendMsg started, in ns plus 1; 0 if there is none

	mu    sync.Mutex // not held for messages
	timer *time.Timer
	cause error // what has cut the stream
	over  bool
}

// statusWriter is a stream of gRPC's own server. WriteStatus ends the stream.
type statusWriter interface {
	WriteStatus(s *status.Status) error
}

// Errors of streams that are cut.
var (
	errIdle        = hoperr.New(codes.DeadlineExceeded, hoperr.StreamIdle, "no message was sent or received for longer than the server allows")
	errSendTimeout = hoperr.New(codes.DeadlineExceeded, hoperr.SendTimeout, "the client did not read, so that a message could not be sent in time")
	errExpired     = hoperr.New(codes.DeadlineExceeded, hoperr.DeadlineExpired, "the deadline has passed")
)

// limitStream returns the limits of an incoming stream, or nil if gRPC enforces all of them.
func (c *call) limitStream() *streamLimits {
	l := &streamLimits{call: c}
	if !c.observe {
		l.idle, l.send = c.method.limits.StreamIdle, c.method.limits.StreamSendTimeout
	}
	if c.cancel == nil && l.idle == 0 && l.send == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(c.request.Context)
	c.request.Context = ctx //nolint:fatcontext // each stream has its own
	l.cancel, l.unwatch = cancel, func() bool { return true }
	if c.cancel != nil {
		l.unwatch = context.AfterFunc(ctx, l.deadlinePassed)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if first := l.next(0); first != unlimited {
		l.timer = time.AfterFunc(first, l.check)
	}
	return l
}

// now returns the time since the call arrived.
func (l *streamLimits) now() time.Duration { return time.Since(l.call.arrived) }

// enter starts a RecvMsg or SendMsg, unless the stream's time is over.
func (l *streamLimits) enter() error {
	l.waiting.Add(1)
	if l.call.request.Err() == nil {
		return nil
	}
	if l.call.cancel != nil && errors.Is(l.call.request.Err(), context.DeadlineExceeded) {
		l.cut(errExpired)
	}
	if cause := l.cutBy(); cause != nil {
		l.waiting.Add(-1)
		return cause
	}
	return nil // gRPC returns the error
}

// leave ends a RecvMsg or SendMsg, for which gRPC has returned err. It returns the error for the
// handler.
func (l *streamLimits) leave(err error) error {
	l.waiting.Add(-1)
	if err == nil {
		l.last.Store(int64(l.now()))
		return nil
	}
	if cause := l.cutBy(); cause != nil {
		return cause
	}
	return err
}

// next returns the time from now until a limit may be reached, or 0 if one is reached.
func (l *streamLimits) next(now time.Duration) time.Duration {
	next := unlimited
	if l.idle > 0 {
		next = time.Duration(l.last.Load()) + l.idle - now
	}
	if l.send > 0 {
		began := now // a send that begins later has its whole time
		if sending := l.sending.Load(); sending > 0 {
			began = time.Duration(sending - 1)
		}
		next = min(next, began+l.send-now)
	}
	return max(0, next)
}

// check cuts the stream if a limit is reached. Otherwise it sets the timer to the time when one may be
// reached.
func (l *streamLimits) check() {
	now := l.now()
	sending := l.sending.Load()
	switch {
	case l.idle > 0 && now >= time.Duration(l.last.Load())+l.idle:
		l.cut(errIdle)
		return
	case l.send > 0 && sending > 0 && now >= time.Duration(sending-1)+l.send:
		l.cut(errSendTimeout)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over && l.cause == nil {
		l.timer.Reset(l.next(now)) // at once, if a message has come and another limit is near
	}
}

// deadlinePassed cuts the stream if its handler waits in gRPC. It is called when the stream's context has
// ended, for any reason.
func (l *streamLimits) deadlinePassed() {
	if l.waiting.Load() > 0 && errors.Is(l.call.request.Err(), context.DeadlineExceeded) {
		l.cut(errExpired)
	}
}

// cut cuts an open stream.
func (l *streamLimits) cut(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || l.cause != nil {
		return
	}
	l.cause = cause
	l.cancel(cause)
	w, ok := grpc.ServerTransportStreamFromContext(l.call.request.Context).(statusWriter)
	if !ok {
		l.call.request.Telemetry.Uncuttable(&l.call.request)
		return
	}
	l.call.sendReport(cause, l.call.request.Allotment.Close(), time.Since(l.call.arrived))
	go func() { // under net/http, it waits for the client to read
		_ = w.WriteStatus(status.Convert(cause)) // fails only if the connection is lost
	}()
}

// cutBy returns the error with which the stream was cut, or nil.
func (l *streamLimits) cutBy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// end ends the limits of a stream whose handler has returned err. It returns the error for the client. If
// the stream was cut, the result is the error of the limit, which says more than the error that the handler
// made of it.
func (l *streamLimits) end(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	if l.timer != nil {
		l.timer.Stop()
	}
	l.unwatch()
	l.cancel(nil)
	if l.cause != nil {
		return l.cause
	}
	return err
}
