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

// streamLimits are the limits of one stream that gRPC does not know: a deadline earlier
// than gRPC's (of the server, or of the caller's hop-context), a limit on idle time, and a
// timeout of sends.
//
// The stream is open, cut or over. It is cut when a limit is reached: its context ends,
// and the stream itself ends with the status of the limit. A pending RecvMsg or SendMsg of
// the handler then returns; nothing else of gRPC's public methods would end it. If the
// deadline passes while the handler is in neither, the stream is cut at its next call of
// one; until then, the handler may succeed. The stream is over when the handler has
// returned.
//
// A message costs a counter and a time that is stored. One timer for each stream does
// the rest.
type streamLimits struct {
	call       *call
	idle, send time.Duration // 0 is no limit
	cancel     context.CancelCauseFunc
	unwatch    func() bool // ends the watch of the deadline

	waiting atomic.Int32 // calls of the handler's to gRPC that are under way
	last    atomic.Int64 // when a message last went either way, in ns since the call arrived
	sending atomic.Int64 // when the handler began to send the message it is sending, plus 1 ns, or 0

	mu    sync.Mutex // not held for messages
	timer *time.Timer
	cause error // what has cut the stream
	over  bool
}

// statusWriter is a stream of gRPC's own server. Its status ends it.
type statusWriter interface {
	WriteStatus(s *status.Status) error
}

// What cuts a stream.
var (
	errIdle        = hoperr.New(codes.DeadlineExceeded, hoperr.StreamIdle, "no message has gone either way for longer than the server allows")
	errSendTimeout = hoperr.New(codes.DeadlineExceeded, hoperr.SendTimeout, "the client has not made room for a message in time")
	errExpired     = hoperr.New(codes.DeadlineExceeded, hoperr.DeadlineExpired, "the deadline has passed")
)

// limitStream returns the limits of an incoming stream, or nil if gRPC knows them all.
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

// enter begins a wait of the handler's, unless the stream's time is over.
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
	return nil // gRPC has the error
}

// leave ends a wait of the handler's, which gRPC ended with err. It returns the error
// for the handler.
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

// next returns the time until a limit may be reached, given the time: 0 if it is.
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

// check cuts the stream if a limit is reached, or else sets the timer for when one may be.
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

// deadlinePassed cuts the stream if its handler waits. It is called when the stream's
// context has ended, whatever has ended it.
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

// cutBy returns what has cut the stream, or nil.
func (l *streamLimits) cutBy() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cause
}

// end ends the limits of a stream whose handler has returned err. It returns the error
// for the client: if the stream was cut, what the handler made of it tells less.
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
