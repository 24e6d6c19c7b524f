package interceptors

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// open opens attempts until there is one, or none may follow.
func (s *streamCall) open() (*streamAttempt, error) {
	for {
		a, err := s.openOne()
		s.mu.Lock()
		s.current = a
		s.change()
		s.mu.Unlock()
		if err == nil {
			s.refreshPolicy()
			if !s.mayRepeat() {
				s.commit(a, "")
			}
			return a, nil
		}
		again, err := s.again(a.attempt, err)
		if !again {
			return nil, err
		}
	}
}

// mayRepeat reports whether an attempt that was opened might be replaced.
func (s *streamCall) mayRepeat() bool {
	return s.mode == Enforce && s.attempts < s.policy.attempts() && s.safe()
}

// openOne opens one attempt, and settles it if it cannot be opened.
func (s *streamCall) openOne() (*streamAttempt, error) {
	a := &streamAttempt{attempt: &attempt{}}
	returned := false
	defer func() {
		if !returned { // the streamer panicked
			a.abandon()
			s.endPanicked(a.attempt)
		}
	}()
	s.awaitConnection()
	ctx, _ := s.begin(a.attempt, 0)
	err := s.openIn(ctx, a, func() {})
	returned = true
	if err != nil {
		a.notOpened()
		s.settleStream(a, err)
		a.abandon()
	}
	return a, err
}

// notOpened takes in who the attempt was to be sent to, if gRPC says so. If no call
// option of ours came to gRPC, nothing is known.
func (a *streamAttempt) notOpened() {
	if a.closed.Load() {
		a.peer = a.dialed
		a.finished.Store(true)
	}
}

// readReply reads what a server has replied besides messages, when receiving has
// ended with err. It asks the stream, because an interceptor in between may have opened
// several of gRPC's, of which it is the last.
func (s *streamCall) readReply(a *streamAttempt, err error) {
	if staysOpen(err) {
		a.unread.Store(true)
		return
	}
	trailer := a.cs.Trailer()
	from, _ := peer.FromContext(a.cs.Context())
	var header metadata.MD
	if len(s.observers) > 0 {
		header, _ = a.cs.Header()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.trailer, a.header = trailer, header
	if from != nil {
		a.peer = *from
	}
	a.finished.Store(true)
	if s.over { // it was not known yet when the call ended
		a.heard = true
		a.tell(s.observers)
	}
}

// settleStream settles an attempt whose own timeout may have ended it.
func (s *streamCall) settleStream(a *streamAttempt, err error) {
	a.attempt.expired = err != nil && a.expired.Load()
	s.settle(a.attempt, err)
}

// abandon lets go of what an attempt holds.
func (a *streamAttempt) abandon() {
	a.answered()
	if a.cancel != nil { // it got as far as that
		a.cancel()
	}
}

// openIn opens an attempt in a context, which release releases.
func (s *streamCall) openIn(ctx context.Context, a *streamAttempt, release context.CancelFunc) error {
	ctx, cancel := context.WithCancel(ctx)
	a.cancel = func() { cancel(); release() }
	if a.timeout > 0 {
		a.timer = time.AfterFunc(a.timeout, func() {
			a.expired.Store(s.ctx.Err() == nil)
			a.cancel()
		})
	}
	opts := append(slices.Clone(s.opts), grpc.Peer(&a.dialed), grpc.OnFinish(func(err error) {
		a.finish(err)
		s.attemptFinished(a, err)
	}))
	a.making.Store(true)
	cs, err := s.streamer(ctx, s.desc, s.cc, s.fullMethod, opts...)
	a.making.Store(false)
	if err != nil {
		return s.explain(a, err)
	}
	a.cs, a.opened = cs, true
	if a.timer != nil {
		go func() { // until there is a response, or the attempt has ended
			_, _ = cs.Header()
			a.answered()
		}()
	}
	return nil
}

// explain returns the error of an attempt, and says so if it is that its own
// timeout has ended it, which to gRPC was a cancellation.
func (s *streamCall) explain(a *streamAttempt, err error) error {
	if err == nil || !a.expired.Load() || status.Code(err) != codes.Canceled {
		return err
	}
	return newError(codes.DeadlineExceeded, ReasonDeadlineExpired, "the attempt's timeout has ended it")
}

// settleDown gives the call back to whoever holds mu. If its context or connection
// has ended meanwhile, the call ends, because nobody else may notice.
func (s *streamCall) settleDown(a *streamAttempt) {
	s.mu.Lock()
	defer s.unlock()
	s.driving = false
	if a != nil {
		s.finishIfGone(a)
	}
	if s.ctx.Err() != nil {
		s.contextEndedLocked() // nobody else may have noticed
	}
}

// finishIfGone ends the call if its attempt has ended and no other can follow, because
// its context or its connection has: the application may never look.
func (s *streamCall) finishIfGone(a *streamAttempt) {
	if a.closed.Load() && s.gone() {
		s.finishLocked(a, a.result)
	}
}

// gone reports whether the call ends without its application's doing.
func (s *streamCall) gone() bool {
	return s.ctx.Err() != nil || s.cc != nil && s.cc.GetState() == connectivity.Shutdown
}

// attemptFinished is what gRPC calls when a stream of an attempt has ended: within one
// of our own calls, which then see to it, or else because its context was cancelled
// or its connection closed.
func (s *streamCall) attemptFinished(a *streamAttempt, err error) {
	s.mu.Lock()
	defer s.unlock()
	a.result = err
	a.closed.Store(true)
	if !s.driving && s.current == a {
		s.finishIfGone(a)
	}
}

// commit makes an attempt the last, unless it is already.
func (s *streamCall) commit(a *streamAttempt, by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commitLocked(a, by)
}

func (s *streamCall) commitLocked(a *streamAttempt, by string) {
	if by == byMessage || by == byHeader {
		a.answered()
	}
	if s.final.Load() != nil {
		return
	}
	a.commit = by
	s.kept.drop(s.Client)
	s.final.Store(a)
	s.change()
}

// commitCurrent commits an attempt unless it is being replaced.
func (s *streamCall) commitCurrent(a *streamAttempt, by string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.driving || s.current != a {
		return false
	}
	s.commitLocked(a, by)
	return true
}

// answered lifts the attempt's timeout, which bounds the time until a response.
func (a *streamAttempt) answered() {
	if a.timer != nil {
		a.timer.Stop()
	}
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
	a.served = a.received.Load() > 0 && s.ctx.Err() != nil
	s.settleStream(a, err)
	if s.mode == Observe && a.received.Load() == 0 { // it would not have been committed
		s.decision, s.wanting, _ = s.judge(a.attempt, err)
	} else {
		s.decision, s.wanting = s.verdict(a.attempt, err, s.policy.retries), false
	}
	if s.decision == retried && s.mode == Enforce { // it might have been, before the stream was committed
		s.decision, s.reason = notRetryable, becauseCommitted
	}
	a.abandon()
	a.traceMessages()
	s.endAttempt(a.attempt, err, s.decision)
	a.tell(s.observers)
	s.endLocked(err)
}

// traceMessages says on the attempt's span what went over the stream.
func (a *streamAttempt) traceMessages() {
	if a.span == nil {
		return
	}
	a.span.SetAttributes(attrSent.Int64(a.sent.Load()), attrReceived.Int64(a.received.Load()))
	if a.commit != "" {
		a.span.SetAttributes(attrCommitted.String(a.commit))
	}
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
	case s.over: // the status is that which belongs to the trailer
		err = s.explain(a, err)
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
	replaced := false
	defer func() {
		if !replaced { // something below panicked
			s.giveUp()
			s.send.leave()
		}
	}()
	err = s.explain(a, err)
	s.settleStream(a, err)
	next, err := s.replace(a, err)
	replaced = true
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

// giveUp ends the call after a panic.
func (s *streamCall) giveUp() {
	s.mu.Lock()
	defer s.unlock()
	s.driving = false
	switch a := s.current; {
	case s.over:
	case a != nil && a.cs != nil && !a.settled:
		s.finishLocked(a, errPanicked)
	default:
		s.endLocked(errPanicked)
	}
}

// replace opens an attempt in the place of one that has failed, or else ends
// the call.
func (s *streamCall) replace(a *streamAttempt, err error) (*streamAttempt, error) {
	a.abandon()
	a.traceMessages()
	again, err := s.again(a.attempt, err)
	if again {
		var next *streamAttempt
		if next, err = s.open(); err == nil {
			return next, nil
		}
	}
	s.mu.Lock()
	defer s.unlock()
	s.current.tell(s.observers)
	s.endLocked(err)
	return nil, err
}

// sendAgain sends all that was kept on a new attempt, and then frees send.
//
// It does so on its own goroutine, because a server may want its responses read
// before it reads on, and whoever waits for this one is to read them.
func (s *streamCall) sendAgain(a *streamAttempt, messages []sentMessage, half bool) {
	if len(messages) == 0 && !half {
		s.send.leave()
		return
	}
	go func() {
		defer s.send.leave()
		defer s.keepPanic(a)
		for _, sent := range messages {
			m, err := sent.message()
			if err != nil {
				a.cancel()
				return
			}
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

// keepPanic keeps a panic of something below for whoever receives, in whose
// place it would have been.
func (s *streamCall) keepPanic(a *streamAttempt) {
	if v := recover(); v != nil {
		s.panicked.Store(&v)
		a.cancel()
	}
}

// passPanic panics if something below has.
func (s *streamCall) passPanic() {
	if v := s.panicked.Load(); v != nil {
		s.giveUp()
		panic(*v)
	}
}
