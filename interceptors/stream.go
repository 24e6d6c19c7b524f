package interceptors

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A stream is open, committed or ended.
//
//   - open: an attempt is under way, and what the application sends is kept so
//     that another can take its place. Whoever receives finds out that the
//     attempt has failed, and replaces it; a sender does only if nobody receives.
//   - committed: a message or a header has reached the application, or what it
//     has sent is too much to keep. The attempt is the last.
//   - ended: the call is over, and all that it held is released. This comes with
//     its status, when its context is cancelled, when its connection is closed,
//     and when the application has dropped it.
//
// Three locks keep them, taken in this order: recv is held by whoever receives
// while the stream is open, and only under it an attempt is replaced. send is
// held by whoever sends, and from the failure of an attempt until its
// replacement has been sent all that was kept. mu is held for moments, and never
// while gRPC is called. While driving is set, the call belongs to the goroutine
// that replaces an attempt; else to whoever holds mu.

// clientStream is a stream as the application holds it. When it is dropped, its
// call is cancelled: nobody can wait for it any more.
type clientStream struct{ *streamCall }

// streamCall is a streaming call with all its attempts.
type streamCall struct {
	call
	desc     *grpc.StreamDesc
	cc       *grpc.ClientConn
	streamer grpc.Streamer

	recv  gate
	send  gate
	final atomic.Pointer[streamAttempt] // set when it is committed

	mu      sync.Mutex
	driving bool
	current *streamAttempt // the last that was opened
	kept    kept
	half    bool // the application has closed its side
	over    bool
	result  error  // of the call when it is over
	notify  func() // the user's OnFinish, to be called when mu is free

	race      *streamRace       // if it is hedged
	observers []grpc.CallOption // the user's, if they are not gRPC's to fill in
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
	result   error  // by gRPC's account, when finished is set
	commit   string // what committed the stream to it, if that was not its opening
}

// What commits a stream.
const (
	byMessage = "message"
	byHeader  = "header"
	byBuffer  = "buffer"
)

// StreamInterceptor returns the interceptor of streaming calls, for chains that
// are put together by hand. Dial with [grpc.WithDisableRetry] beside it.
func (c *Client) StreamInterceptor() grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, fullMethod string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s := &streamCall{desc: desc, cc: cc, streamer: streamer, recv: newGate(), send: newGate(), driving: true}
		s.streaming = true
		s.plan(ctx, c, fullMethod, cc, opts)
		bounded := s.call.cancel
		s.ctx, s.call.cancel = context.WithCancel(s.ctx)
		if bounded != nil {
			cancel := s.call.cancel
			s.call.cancel = func() { cancel(); bounded() }
		}
		if finish := s.call.finish; finish != nil { // the user's code runs under no lock
			s.call.finish = func(err error) { s.notify = func() { finish(err) } }
		}
		if err := s.start(); err != nil {
			return nil, err
		}
		h := &clientStream{s}
		runtime.AddCleanup(h, (*streamCall).drop, s)
		return h, nil
	}
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
			s.over = true
			s.end(err)
			s.unlock()
		}
	}()
	if err = s.refuse(); err == nil {
		if s.hedges() && s.desc.ServerStreams && !s.desc.ClientStreams {
			s.prepareRace()
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

// unlock frees mu, and tells the user if the call has ended under it.
func (s *streamCall) unlock() {
	notify := s.notify
	s.notify = nil
	s.mu.Unlock()
	if notify != nil {
		notify()
	}
}

// open opens attempts until there is one, or none may follow.
func (s *streamCall) open() (*streamAttempt, error) {
	for {
		a, err := s.openOne()
		if err == nil {
			s.mu.Lock()
			s.current = a
			s.mu.Unlock()
			if !s.mayRepeat() {
				s.commit(a, "")
			}
			return a, nil
		}
		again, err := s.again(a.attempt, err)
		if !again {
			return nil, err
		}
		s.forgetLast()
	}
}

// mayRepeat reports whether an attempt that was opened might be replaced.
func (s *streamCall) mayRepeat() bool {
	return s.mode == Enforce && s.attempts < s.policy.attempts() && s.safe()
}

// openOne opens one attempt, and settles it if it cannot be opened.
func (s *streamCall) openOne() (*streamAttempt, error) {
	a := &streamAttempt{attempt: &attempt{}}
	ctx, _ := s.begin(a.attempt, 0)
	err := s.openIn(ctx, a, s.opts)
	if err != nil {
		s.settle(a.attempt, err)
		a.abandon()
	}
	return a, err
}

// abandon lets go of what an attempt holds.
func (a *streamAttempt) abandon() {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.cancel()
}

// openIn opens an attempt in a context.
func (s *streamCall) openIn(ctx context.Context, a *streamAttempt, opts []grpc.CallOption) error {
	ctx, a.cancel = context.WithCancel(ctx)
	if a.timeout > 0 {
		a.timer = time.AfterFunc(a.timeout, func() {
			a.expired.Store(true)
			a.cancel()
		})
	}
	all := make([]grpc.CallOption, 0, len(opts)+3)
	all = append(append(all, opts...), grpc.Trailer(&a.trailer), grpc.Peer(&a.peer),
		grpc.OnFinish(func(err error) { s.attemptFinished(a, err) }))
	var err error
	a.cs, err = s.streamer(ctx, s.desc, s.cc, s.fullMethod, all...)
	return s.explain(a, err)
}

// explain returns the error of an attempt, and says so if it is that its own
// timeout has ended it, which to gRPC was a cancellation.
func (s *streamCall) explain(a *streamAttempt, err error) error {
	if err == nil || !a.expired.Load() || s.ctx.Err() != nil {
		return err
	}
	a.attempt.expired = true
	return newError(codes.DeadlineExceeded, ReasonDeadlineExpired, "the attempt's timeout has ended it")
}

// settleDown gives the call back to whoever holds mu. If its attempt has ended
// meanwhile and is the last, the call ends, for nobody else may notice.
func (s *streamCall) settleDown(a *streamAttempt) {
	s.mu.Lock()
	defer s.unlock()
	s.driving = false
	if a != nil {
		s.finishIfLast(a)
	}
}

// finishIfLast ends the call if its attempt has ended and no other can follow.
func (s *streamCall) finishIfLast(a *streamAttempt) {
	if a.finished.Load() && (s.final.Load() == a || s.gone()) {
		s.finishLocked(a, a.result)
	}
}

// gone reports whether the call ends without its application's doing.
func (s *streamCall) gone() bool {
	return s.ctx.Err() != nil || s.cc != nil && s.cc.GetState() == connectivity.Shutdown
}

// attemptFinished is what gRPC calls when an attempt has ended: within one of
// our own calls, which then see to it, or else because its context was cancelled
// or its connection closed.
func (s *streamCall) attemptFinished(a *streamAttempt, err error) {
	s.mu.Lock()
	defer s.unlock()
	a.result = err
	a.finished.Store(true)
	if !s.driving && s.current == a {
		s.finishIfLast(a)
	}
}

// drop ends the call of a stream that the application has dropped.
func (s *streamCall) drop() { s.call.cancel() }

// commit makes an attempt the last, unless it is already.
func (s *streamCall) commit(a *streamAttempt, by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commitLocked(a, by)
}

func (s *streamCall) commitLocked(a *streamAttempt, by string) {
	if s.final.Load() != nil {
		return
	}
	a.commit = by
	if a.timer != nil {
		a.timer.Stop()
	}
	s.kept.drop(s.Client)
	s.final.Store(a)
}

// finish ends the call with the status of its last attempt.
func (s *streamCall) finish(a *streamAttempt, err error) {
	s.mu.Lock()
	defer s.unlock()
	s.finishLocked(a, err)
}

func (s *streamCall) finishLocked(a *streamAttempt, err error) {
	if s.over {
		return
	}
	err = s.explain(a, err)
	s.settle(a.attempt, err)
	s.decision, s.wanting = s.verdict(a.attempt, err, s.policy.retries), false
	if s.decision == retried { // it might have been, before the stream was committed
		s.decision = notRetryable
	}
	s.close(a, err)
}

// close ends an attempt and the call with it.
func (s *streamCall) close(a *streamAttempt, err error) {
	s.over, s.result = true, err
	s.kept.drop(s.Client)
	s.endStreamAttempt(a, err)
	a.tell(s.observers)
	s.end(err)
}

// endStreamAttempt ends an attempt that has been settled and judged.
func (s *streamCall) endStreamAttempt(a *streamAttempt, err error) {
	a.abandon()
	if a.span != nil {
		a.span.SetAttributes(attrSent.Int64(a.sent.Load()), attrReceived.Int64(a.received.Load()))
		if a.commit != "" {
			a.span.SetAttributes(attrCommitted.String(a.commit))
		}
	}
	s.endAttempt(a.attempt, err, s.decision)
}

// failed sees to an attempt that has failed while the stream was open: another
// takes its place, or the call ends. It is called with recv held, and with send
// held if sending is set; send is free afterwards, or will be when all that was
// kept has been sent again.
func (s *streamCall) failed(a *streamAttempt, err error, sending bool) (again bool, _ error) {
	a.cancel() // whoever sends on it is let go
	if !sending {
		s.send.enter()
	}
	s.mu.Lock()
	switch {
	case s.over:
		err = s.result
	case s.final.Load() != nil: // what was sent has become too much to keep
		s.finishLocked(a, err)
		err = s.result
	default:
		s.driving = true
	}
	driving := s.driving
	messages, half := s.kept.messages, s.half // an attempt that is the last lets go of them
	s.unlock()
	if !driving {
		s.send.leave()
		return false, err
	}
	err = s.explain(a, err)
	s.settle(a.attempt, err)
	next, err := s.replace(a, err)
	if next == nil {
		s.mu.Lock()
		s.driving = false
		s.mu.Unlock()
		s.send.leave()
		return false, err
	}
	s.sendAgain(next, messages, half)
	s.settleDown(next)
	return true, nil
}

// replace opens an attempt in the place of one that has failed, or else ends
// the call.
func (s *streamCall) replace(a *streamAttempt, err error) (*streamAttempt, error) {
	a.abandon()
	if a.span != nil {
		a.span.SetAttributes(attrSent.Int64(a.sent.Load()), attrReceived.Int64(a.received.Load()))
	}
	again, err := s.again(a.attempt, err)
	if again {
		s.forgetLast()
		var next *streamAttempt
		if next, err = s.open(); err == nil {
			return next, nil
		}
	}
	s.mu.Lock()
	defer s.unlock()
	s.over, s.result = true, err
	s.kept.drop(s.Client)
	s.end(err)
	return nil, err
}

// sendAgain sends all that was kept on a new attempt, and then frees send.
//
// It does so on its own goroutine, because a server may want its responses read
// before it reads on, and whoever waits for this one is to read them.
func (s *streamCall) sendAgain(a *streamAttempt, messages []any, half bool) {
	if len(messages) == 0 && !half {
		s.send.leave()
		return
	}
	go func() {
		defer s.send.leave()
		for _, m := range messages {
			if a.cs.SendMsg(m) != nil {
				return // whoever receives finds out why
			}
			a.sent.Add(1)
		}
		if half {
			_ = a.cs.CloseSend()
		}
	}()
}

// sendMsg sends a message, and keeps it while the stream is open.
func (s *streamCall) sendMsg(m any) error {
	s.send.enter()
	a := s.final.Load()
	if a == nil {
		s.mu.Lock()
		if s.over {
			s.mu.Unlock()
			s.send.leave()
			return io.EOF
		}
		a = s.current
		if !s.kept.add(s.Client, m) {
			s.commitLocked(a, byBuffer)
		}
		s.mu.Unlock()
	}
	err := a.cs.SendMsg(m)
	if err == nil {
		a.sent.Add(1)
	}
	switch {
	case err == nil:
	case !errors.Is(err, io.EOF): // made on this side, so that another attempt would not help
		s.commit(a, "")
		s.finish(a, err)
	case s.final.Load() != nil:
	case s.recv.tryEnter(): // nobody receives, who would find out why
		defer s.recv.leave()
		return s.resolve(a)
	default:
		err = nil // it is kept
	}
	s.send.leave()
	return err
}

// resolve finds out why an attempt has ended that a message could not be sent
// on. It is called with recv and send held, and frees send as failed does.
func (s *streamCall) resolve(a *streamAttempt) error {
	if header, _ := a.cs.Header(); header != nil { // there is something to receive, and the status after it
		s.send.leave()
		return nil
	}
	err := a.cs.RecvMsg(&emptypb.Empty{}) // without a header there is no message
	if err == nil || errors.Is(err, io.EOF) {
		s.finish(a, nil)
		s.send.leave()
		return io.EOF
	}
	if again, _ := s.failed(a, err, true); !again {
		return io.EOF
	}
	return nil
}

func (s *streamCall) closeSend() error {
	s.send.enter()
	defer s.send.leave()
	s.mu.Lock()
	s.half = true
	a := s.current
	s.mu.Unlock()
	if a == nil {
		return nil
	}
	return a.cs.CloseSend()
}

// recvMsg receives a message. The first commits the stream.
func (s *streamCall) recvMsg(m any) error {
	if a := s.final.Load(); a != nil {
		return s.recvOn(a, m)
	}
	s.recv.enter()
	defer s.recv.leave()
	for {
		a, err := s.attempt()
		if err != nil {
			return err
		}
		if s.final.Load() == a {
			return s.recvOn(a, m)
		}
		err = a.cs.RecvMsg(m)
		switch {
		case err == nil:
			s.commit(a, byMessage)
			s.receivedOn(a)
			return nil
		case errors.Is(err, io.EOF):
			s.finish(a, nil)
			return err
		}
		if again, err := s.failed(a, err, false); !again {
			return err
		}
	}
}

// attempt returns the attempt under way, or the error of the call if it is over
// without one that could still be read.
func (s *streamCall) attempt() (*streamAttempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over && s.final.Load() == nil {
		if s.result == nil {
			return nil, io.EOF
		}
		return nil, s.result
	}
	if s.current == nil { // of several attempts, before there is a request
		return nil, newError(codes.Internal, ReasonMisuse, "nothing can be received before the request has been sent")
	}
	return s.current, nil
}

// recvOn receives on the last attempt.
func (s *streamCall) recvOn(a *streamAttempt, m any) error {
	err := a.cs.RecvMsg(m)
	switch {
	case err == nil:
		s.receivedOn(a)
	case errors.Is(err, io.EOF):
		s.finish(a, nil)
	default:
		err = s.explain(a, err)
		s.finish(a, err)
	}
	return err
}

// receivedOn counts a message. A call with one response has ended with it.
func (s *streamCall) receivedOn(a *streamAttempt) {
	a.received.Add(1)
	if !s.desc.ServerStreams {
		s.finish(a, nil)
	}
}

// responseHeader returns the response header, which commits the stream.
func (s *streamCall) responseHeader() (metadata.MD, error) {
	if a := s.final.Load(); a != nil {
		return a.cs.Header()
	}
	s.recv.enter()
	defer s.recv.leave()
	for {
		a, err := s.attempt()
		if err != nil {
			return nil, nil //nolint:nilerr,nilnil // as gRPC has it: the error is for RecvMsg
		}
		if s.final.Load() == a {
			return a.cs.Header()
		}
		header, err := a.cs.Header()
		if header != nil && err == nil {
			s.commit(a, byHeader)
			return header, nil
		}
		err = a.cs.RecvMsg(&emptypb.Empty{}) // without a header there is no message
		if err == nil || errors.Is(err, io.EOF) {
			s.finish(a, nil)
			return nil, nil //nolint:nilnil // as gRPC has it
		}
		if again, _ := s.failed(a, err, false); !again {
			return nil, nil //nolint:nilnil // as gRPC has it
		}
	}
}

// SendMsg sends a message. As on any stream of gRPC, it must not be changed
// afterwards, and io.EOF says that the status is to be had from RecvMsg.
func (h *clientStream) SendMsg(m any) error {
	defer runtime.KeepAlive(h)
	if h.race != nil {
		h.startRace(m)
		return nil
	}
	return h.sendMsg(m)
}

// CloseSend closes the application's side.
func (h *clientStream) CloseSend() error {
	defer runtime.KeepAlive(h)
	if h.race != nil {
		return nil
	}
	return h.closeSend()
}

// RecvMsg receives a message.
func (h *clientStream) RecvMsg(m any) error {
	defer runtime.KeepAlive(h)
	h.awaitRace()
	return h.recvMsg(m)
}

// Header returns the response header, and waits for it.
func (h *clientStream) Header() (metadata.MD, error) {
	defer runtime.KeepAlive(h)
	h.awaitRace()
	return h.responseHeader()
}

// Trailer returns the trailer of a stream that has ended.
func (h *clientStream) Trailer() metadata.MD {
	defer runtime.KeepAlive(h)
	h.mu.Lock()
	a := h.current
	h.mu.Unlock()
	if a == nil || a.cs == nil {
		return nil
	}
	return a.cs.Trailer()
}

// Context returns the stream's context: that of the last attempt, or before
// there is one that of the call. Unlike gRPC's, it does not commit the stream.
func (h *clientStream) Context() context.Context {
	defer runtime.KeepAlive(h)
	if a := h.final.Load(); a != nil {
		return a.cs.Context()
	}
	return h.ctx
}
