package stream

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/outbound"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// A stream is open, committed or ended.
//
//   - open: an attempt is under way, and what the application sends is kept so that another attempt
//     can replace it. Whoever receives finds out that the attempt has failed, and replaces it. A
//     sender does so only if nobody receives.
//   - committed: a message or a header has reached the application, or the application has sent more
//     than can be kept. The attempt is the last.
//   - ended: the call is over, and everything that it held is released. A stream ends with its
//     status, when its context is cancelled, and when its connection is closed. As with gRPC alone,
//     the application must bring about one of these.
//
// Three locks protect a stream, and are taken in this order. Whoever receives while the stream is open
// holds recv, and only the holder of recv replaces an attempt. Whoever sends holds send; from the
// failure of an attempt on, send is held until everything that was kept has been sent on its
// replacement. mu is held briefly, and never while gRPC is called. While driving is set, the call
// belongs to the goroutine that replaces an attempt; otherwise it belongs to the holder of mu.

// Stream is a streaming call with all its attempts, as the application holds it.
type Stream struct {
	call     outbound.Call
	client   *Client
	desc     *grpc.StreamDesc
	conn     *grpc.ClientConn
	streamer grpc.Streamer
	caller   context.Context
	cancel   context.CancelFunc // of the call's context, which is derived from the caller's

	recv      mutex
	send      mutex
	committed atomic.Pointer[attempt] // the last attempt; nil while the stream is open

	panicked atomic.Pointer[any] // the value with which something below has panicked

	mu         sync.Mutex
	driving    bool
	current    *attempt // the last that was opened
	sent       sentBuffer
	closedSend bool // the application has closed its side
	over       bool
	result     error         // of the call when it is over
	changed    chan struct{} // closed when current, committed or over has changed

	notify  func()      // the user's OnFinish, to be called when no lock is held
	unwatch func() bool // if OnFinish was left to the receiver: stops waiting for the caller's context
	inside  int         // calls of the application to the stream that are under way

	race *race // nil if the call is not hedged
}

// mutex is a lock that may be held for long. In tests, virtual time advances while goroutines wait for
// a channel, but not while one waits for a sync.Mutex.
type mutex chan struct{}

func newMutex() mutex { return make(mutex, 1) }

func (m mutex) Lock()   { m <- struct{}{} }
func (m mutex) Unlock() { <-m }

func (m mutex) TryLock() bool {
	select {
	case m <- struct{}{}:
		return true
	default:
		return false
	}
}

// attempt is one attempt of a stream.
type attempt struct {
	*outbound.Attempt
	cs          grpc.ClientStream
	cancel      context.CancelFunc
	timer       *time.Timer // ends the attempt unless it is committed; nil if there is none
	expired     atomic.Bool
	sent        atomic.Int64
	received    atomic.Int64
	result      error  // as gRPC has it; set when closed is set
	committedBy string // what committed the stream to it, if that was not its opening

	// closed is set when gRPC says that a stream of this attempt has ended. An interceptor in
	// between may open another one.
	closed atomic.Bool
	unread atomic.Bool // receiving has failed, and gRPC's stream goes on
	dialed peer.Peer   // received from gRPC; read only if the attempt could not be opened
}

// Client makes the streaming calls of a client.
type Client struct {
	Client *outbound.Client
	Buffer int // bytes that all streams together keep for retries

	buffered atomic.Int64
}

// Interceptor returns the interceptor of streaming calls. The argument native says that gRPC's own
// retries are on.
func (c *Client) Interceptor(native bool) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, fullMethod string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if c.Client.InstalledTwice(ctx, fullMethod, cc) {
			return streamer(ctx, desc, cc, fullMethod, opts...)
		}
		s := &Stream{
			client: c, desc: desc, conn: cc, streamer: streamer, caller: ctx,
			recv: newMutex(), send: newMutex(), changed: make(chan struct{}), driving: true,
		}
		s.call.Streaming, s.call.Native = true, native
		s.call.Start(ctx, c.Client, fullMethod, cc, opts)
		if outbound.IsRetriedAbove(ctx) {
			s.call.LeaveRetries()
		}
		s.makeCancellable()
		if onFinish := s.call.OnFinish; onFinish != nil { // the user's code runs while no lock is held
			s.call.OnFinish = func(err error) { s.notify = func() { onFinish(err) } }
		}
		if err := s.start(); err != nil {
			return nil, err
		}
		return s, nil
	}
}

// makeCancellable makes sure that the stream can cancel the call.
func (s *Stream) makeCancellable() {
	bounded := s.call.Release
	ctx, cancel := context.WithCancel(s.call.Context)
	s.call.Context, s.cancel = ctx, cancel //nolint:fatcontext // each stream has its own
	unwatch := context.AfterFunc(ctx, s.contextEnded)
	s.call.Release = func() {
		unwatch()
		cancel()
		if bounded != nil {
			bounded()
		}
	}
}

// contextEnded ends the call when its context has ended, unless gRPC does so. The attempt may have
// ended earlier without being noticed.
func (s *Stream) contextEnded() {
	s.mu.Lock()
	defer s.unlock()
	s.contextEndedLocked()
}

func (s *Stream) contextEndedLocked() {
	switch a := s.current; {
	case s.over || s.driving:
	case a == nil: // it was to be hedged, and has had no request
		s.call.Decision, s.call.Reason = telemetry.NotRetryable, telemetry.ReasonCancelled
		if errors.Is(s.call.Context.Err(), context.DeadlineExceeded) {
			s.call.Decision, s.call.Reason = telemetry.Deadline, telemetry.ReasonPassed
		}
		s.endLocked(s.contextError())
	case a.closed.Load():
		s.finishLocked(a, s.contextError())
	default: // gRPC is about to say so, unless its options were dropped on the way
		time.AfterFunc(time.Second, func() { s.finishUnlessDriven(a) })
	}
}

func (s *Stream) finishUnlessDriven(a *attempt) {
	s.mu.Lock()
	defer s.unlock()
	if !s.driving {
		s.finishLocked(a, s.contextError())
	}
}

// endLocked ends the call with err.
func (s *Stream) endLocked(err error) {
	s.over, s.result = true, err
	s.sent.drop(s.client)
	s.change()
	s.call.End(err)
}

// change wakes those who wait for a change.
func (s *Stream) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// contextError returns the error of a call whose context has ended.
func (s *Stream) contextError() error {
	if errors.Is(s.call.Context.Err(), context.DeadlineExceeded) {
		return hoperr.New(codes.DeadlineExceeded, hoperr.DeadlineExpired, "the deadline has passed")
	}
	return hoperr.NewCanceled()
}

// start opens the first attempt, or prepares the race of a hedged call.
func (s *Stream) start() (err error) {
	returned := false
	defer func() {
		if !returned {
			err = hoperr.ErrPanicked
		}
		if err != nil {
			s.mu.Lock()
			s.driving = false
			s.endLocked(err)
			s.unlock()
		}
	}()
	if err = s.call.Reject(); err == nil {
		if s.call.IsHedged() && s.desc.ServerStreams && !s.desc.ClientStreams {
			s.race = &race{ready: make(chan struct{})}
		} else {
			s.call.DisableHedging()
			err = s.open(nil, nil)
		}
	}
	if err == nil {
		s.endReplacement(s.current)
	}
	returned = true
	return err
}

// unlock unlocks mu. If the call has ended, unlock calls the user's OnFinish, unless a call of the
// application to the stream is under way, which may hold another lock. In that case, leave or
// leaveToReceiver does it.
func (s *Stream) unlock() {
	var notify func()
	if s.inside == 0 && !s.driving {
		notify, s.notify = s.notify, nil
	}
	s.mu.Unlock()
	if notify != nil {
		notify()
	}
}

// enter begins each call of the application to the stream, and leave or leaveToReceiver ends it.
func (s *Stream) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inside++
}

// leave calls the user's OnFinish if the call has ended.
func (s *Stream) leave() {
	s.mu.Lock()
	s.inside--
	s.mu.Unlock()
	s.notifyUser()
}

// leaveToReceiver leaves the user's OnFinish, which may wait for the sender, to the goroutine that
// receives the status, as gRPC does. If no goroutine receives the status, OnFinish is called when the
// caller's context ends.
func (s *Stream) leaveToReceiver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inside--
	if s.notify != nil && s.unwatch == nil {
		s.unwatch = context.AfterFunc(s.caller, s.notifyUser)
	}
}

// notifyUser calls the user's OnFinish, unless that has been done or the call has not ended.
func (s *Stream) notifyUser() {
	s.mu.Lock()
	notify, unwatch := s.notify, s.unwatch
	s.notify = nil
	s.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	if notify != nil {
		notify()
	}
}

// SendMsg sends a message. A retry sends the message as it is now. As on any stream of gRPC, io.EOF
// means that RecvMsg returns the status.
func (s *Stream) SendMsg(m any) (err error) {
	s.enter()
	defer func() {
		if err == nil || errors.Is(err, io.EOF) {
			s.leaveToReceiver()
		} else {
			s.leave()
		}
	}()
	if s.race != nil {
		return s.startRace(m)
	}
	err = s.sendMsg(m)
	if !s.desc.ClientStreams && errors.Is(err, io.EOF) {
		return nil // as gRPC has it: the status comes from RecvMsg
	}
	return err
}

// CloseSend closes the application's side.
func (s *Stream) CloseSend() error {
	s.enter()
	defer s.leaveToReceiver()
	if s.race != nil {
		return nil
	}
	return s.closeSend()
}

// RecvMsg receives a message.
func (s *Stream) RecvMsg(m any) error {
	s.enter()
	defer s.leave()
	s.awaitRace()
	return s.recvMsg(m)
}

// Header returns the response header, and waits for it.
func (s *Stream) Header() (metadata.MD, error) {
	s.enter()
	defer s.leave()
	s.awaitRace()
	return s.responseHeader()
}

// Trailer returns the trailer of a stream that has ended.
func (s *Stream) Trailer() metadata.MD {
	if a := s.lastAttempt(); a != nil && !a.unread.Load() {
		return a.cs.Trailer()
	}
	return nil
}

// Context returns the stream's context: that of the last attempt. While the stream is
// open, it ends with the call, and has the values of the attempt under way, such as
// [grpc.PreparedMsg] needs. Unlike gRPC's, it does not commit the stream.
func (s *Stream) Context() context.Context {
	if a := s.committed.Load(); a != nil {
		return a.cs.Context()
	}
	a := s.lastAttempt()
	switch {
	case a == nil:
		return s.call.Context
	case s.ended():
		return a.cs.Context()
	default:
		return &openContext{s.call.Context, a.cs.Context()}
	}
}

// openContext is the context of a stream whose attempt may be replaced: that of the
// call, with the values of the attempt.
type openContext struct {
	context.Context
	attempt context.Context
}

// Value returns a value of the attempt's context.
func (c *openContext) Value(key any) any { return c.attempt.Value(key) }

// lastAttempt returns the last attempt, or nil if that could not be opened.
func (s *Stream) lastAttempt() *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.cs == nil {
		return nil
	}
	return s.current
}

// ended reports whether the call is over.
func (s *Stream) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}
