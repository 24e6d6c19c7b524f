package interceptors

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// A stream is open, committed or ended.
//
//   - open: an attempt is under way, and what the application sends is kept so
//     that another can take its place. Whoever receives finds out that the
//     attempt has failed, and replaces it; a sender does only if nobody receives.
//   - committed: a message or a header has reached the application, or what it
//     has sent is too much to keep. The attempt is the last.
//   - ended: the call is over, and all that it held is released. This comes with
//     its status, when its context is cancelled, and when its connection is closed.
//     As with gRPC alone, the application must see to one of these.
//
// Three locks keep them, taken in this order: recv is held by whoever receives
// while the stream is open, and only under it an attempt is replaced. send is
// held by whoever sends, and from the failure of an attempt until its
// replacement has been sent all that was kept. mu is held for moments, and never
// while gRPC is called. While driving is set, the call belongs to the goroutine
// that replaces an attempt; else to whoever holds mu.

// streamCall is a streaming call with all its attempts.
type streamCall struct {
	call
	desc     *grpc.StreamDesc
	cc       *grpc.ClientConn
	streamer grpc.Streamer
	cancel   context.CancelFunc // of the call's context

	recv  gate
	send  gate
	final atomic.Pointer[streamAttempt] // set when it is committed

	panicked atomic.Pointer[any] // what something below has panicked with

	mu      sync.Mutex
	driving bool
	current *streamAttempt // the last that was opened
	kept    kept
	half    bool // the application has closed its side
	over    bool
	result  error         // of the call when it is over
	changed chan struct{} // closed when current, final or over has changed

	notify func() // the user's OnFinish, to be called when no lock is held
	inside int    // the application's calls of the stream that are under way

	race *streamRace // if it is hedged
}

// gate is a lock that may be held for long, which whoever waits for it, and
// virtual time in tests, must be able to tell from one that is about to be free.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

func (g gate) enter() { g <- struct{}{} }
func (g gate) leave() { <-g }

func (g gate) tryEnter() bool {
	select {
	case g <- struct{}{}:
		return true
	default:
		return false
	}
}

// streamAttempt is one attempt of a streaming call.
type streamAttempt struct {
	*attempt
	cs       grpc.ClientStream
	cancel   context.CancelFunc
	timer    *time.Timer // that ends it unless it is committed; nil if there is none
	expired  atomic.Bool
	sent     atomic.Int64
	received atomic.Int64
	result   error  // by gRPC's account, when closed is set
	commit   string // what committed the stream to it, if that was not its opening

	// closed is whether gRPC says that a stream of this attempt has ended. An
	// interceptor in between may open another.
	closed atomic.Bool
	unread atomic.Bool // receiving has failed, and gRPC's stream goes on
	dialed peer.Peer   // as gRPC has it by then; read only if the attempt could not be opened
}

// What commits a stream.
const (
	byMessage = "message"
	byHeader  = "header"
	byBuffer  = "buffer"
)

// StreamInterceptor returns the interceptor of streaming calls, for chains that
// are put together by hand. Dial with [grpc.WithDisableRetry] beside it.
func (c *Client) StreamInterceptor() grpc.StreamClientInterceptor { return c.streamInterceptor(false) }

func (c *Client) streamInterceptor(native bool) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, fullMethod string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if c.installedTwice(ctx, fullMethod, cc) {
			return streamer(ctx, desc, cc, fullMethod, opts...)
		}
		s := &streamCall{
			desc: desc, cc: cc, streamer: streamer,
			recv: newGate(), send: newGate(), changed: make(chan struct{}), driving: true,
		}
		s.streaming, s.native = true, native
		s.plan(ctx, c, fullMethod, cc, opts)
		if isRetriedAbove(ctx) {
			s.leaveRetries()
		}
		s.makeCancellable()
		if tell := s.onFinish; tell != nil { // the user's code runs under no lock
			s.onFinish = func(err error) { s.notify = func() { tell(err) } }
		}
		if err := s.start(); err != nil {
			return nil, err
		}
		return s, nil
	}
}

// makeCancellable makes sure that the call can be ended from here.
func (s *streamCall) makeCancellable() {
	bounded := s.release
	ctx, cancel := context.WithCancel(s.ctx)
	s.ctx, s.cancel = ctx, cancel
	unwatch := context.AfterFunc(ctx, s.contextEnded)
	s.release = func() {
		unwatch()
		cancel()
		if bounded != nil {
			bounded()
		}
	}
}

// contextEnded ends the call when its context has ended, unless gRPC sees to it:
// the attempt may have ended before, and nobody have looked.
func (s *streamCall) contextEnded() {
	s.mu.Lock()
	defer s.unlock()
	s.contextEndedLocked()
}

func (s *streamCall) contextEndedLocked() {
	switch a := s.current; {
	case s.over || s.driving:
	case a == nil: // it was to be hedged, and has had no request
		s.decision, s.reason = notRetryable, becauseCancelled
		if errors.Is(s.ctx.Err(), context.DeadlineExceeded) {
			s.decision, s.reason = outOfTime, becausePassed
		}
		s.endLocked(s.contextError())
	case a.closed.Load():
		s.finishLocked(a, s.contextError())
	default: // gRPC is about to say so, unless its options were dropped on the way
		time.AfterFunc(time.Second, func() { s.finishUnlessDriven(a) })
	}
}

func (s *streamCall) finishUnlessDriven(a *streamAttempt) {
	s.mu.Lock()
	defer s.unlock()
	if !s.driving {
		s.finishLocked(a, s.contextError())
	}
}

// endLocked ends the call without an attempt that could tell more of it.
func (s *streamCall) endLocked(err error) {
	s.over, s.result = true, err
	s.kept.drop(s.Client)
	s.change()
	s.end(err)
}

// change tells those who wait that something has changed.
func (s *streamCall) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// contextError returns the error of a call whose context has ended.
func (s *streamCall) contextError() error {
	if errors.Is(s.ctx.Err(), context.DeadlineExceeded) {
		return newError(codes.DeadlineExceeded, ReasonDeadlineExpired, "the deadline has passed")
	}
	return cancelledError()
}

// start opens the first attempt, or prepares for several at the same time.
func (s *streamCall) start() (err error) {
	returned := false
	defer func() {
		if !returned {
			err = errPanicked
		}
		if err != nil {
			s.mu.Lock()
			s.driving = false
			s.endLocked(err)
			s.unlock()
		}
	}()
	if err = s.refuse(); err == nil {
		hedged := s.hedges() && s.desc.ServerStreams && !s.desc.ClientStreams
		s.plainUnless(hedged)
		if hedged {
			s.race = &streamRace{ready: make(chan struct{})}
		} else {
			_, err = s.open()
		}
	}
	if err == nil {
		s.settleDown(s.current)
	}
	returned = true
	return err
}

// unlock frees mu, and tells the user if the call has ended, unless one of the
// application's own calls is under way, which may hold more: that will when it
// leaves.
func (s *streamCall) unlock() {
	var notify func()
	if s.inside == 0 && !s.driving {
		notify, s.notify = s.notify, nil
	}
	s.mu.Unlock()
	if notify != nil {
		notify()
	}
}

// enter and leave surround each of the application's calls.
func (s *streamCall) enter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inside++
}

func (s *streamCall) leave() {
	s.mu.Lock()
	s.inside--
	notify := s.notify
	s.notify = nil
	s.mu.Unlock()
	if notify != nil {
		notify()
	}
}

// SendMsg sends a message. Retries send it as it is now. As on any stream of gRPC,
// io.EOF means that RecvMsg returns the status.
func (s *streamCall) SendMsg(m any) error {
	s.enter()
	defer s.leave()
	if s.race != nil {
		return s.startRace(m)
	}
	err := s.sendMsg(m)
	if !s.desc.ClientStreams && errors.Is(err, io.EOF) {
		return nil // as gRPC has it: the status comes from RecvMsg
	}
	return err
}

// CloseSend closes the application's side.
func (s *streamCall) CloseSend() error {
	s.enter()
	defer s.leave()
	if s.race != nil {
		return nil
	}
	return s.closeSend()
}

// RecvMsg receives a message.
func (s *streamCall) RecvMsg(m any) error {
	s.enter()
	defer s.leave()
	s.awaitRace()
	return s.recvMsg(m)
}

// Header returns the response header, and waits for it.
func (s *streamCall) Header() (metadata.MD, error) {
	s.enter()
	defer s.leave()
	s.awaitRace()
	return s.responseHeader()
}

// Trailer returns the trailer of a stream that has ended.
func (s *streamCall) Trailer() metadata.MD {
	if a := s.lastAttempt(); a != nil && !a.unread.Load() {
		return a.cs.Trailer()
	}
	return nil
}

// Context returns the stream's context: that of the last attempt. While the stream is
// open, it ends with the call, and has the values of the attempt under way, such as
// [grpc.PreparedMsg] needs. Unlike gRPC's, it does not commit the stream.
func (s *streamCall) Context() context.Context {
	if a := s.final.Load(); a != nil {
		return a.cs.Context()
	}
	a := s.lastAttempt()
	switch {
	case a == nil:
		return s.ctx
	case s.ended():
		return a.cs.Context()
	default:
		return &openContext{s.ctx, a.cs.Context()}
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
func (s *streamCall) lastAttempt() *streamAttempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil || s.current.cs == nil {
		return nil
	}
	return s.current
}

// ended reports whether the call is over.
func (s *streamCall) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}
