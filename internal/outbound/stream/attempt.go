package stream

import (
	"context"
	"slices"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/outbound"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// open opens an attempt. If failed is not nil, the attempt replaces that one, which has failed with
// err. If no attempt could be opened, open returns the error of the call.
func (s *Stream) open(failed *attempt, err error) error {
	var last *outbound.Attempt
	if failed != nil {
		last = failed.Attempt
	}
	return s.call.Attempts(last, err, func() (*outbound.Attempt, error) {
		a, err := s.openOne()
		s.mu.Lock()
		s.current = a
		s.change()
		s.mu.Unlock()
		if err == nil && !s.call.MayRetry() {
			s.commit(a, "")
		}
		return a.Attempt, err
	})
}

// openOne opens one attempt, and settles it if it cannot be opened.
func (s *Stream) openOne() (*attempt, error) {
	a := &attempt{Attempt: &outbound.Attempt{}}
	returned := false
	defer func() {
		if !returned { // the streamer panicked
			a.abandon()
			s.call.EndPanicked(a.Attempt)
		}
	}()
	ctx, _ := s.call.Begin(a.Attempt, 0)
	err := s.openIn(ctx, a, func() {})
	returned = true
	if err != nil {
		a.notOpened()
		s.settle(a, err)
		a.abandon()
	}
	return a, err
}

// notOpened records the peer of an attempt that could not be opened. If an interceptor in between has
// dropped the call options, it is unknown.
func (a *attempt) notOpened() {
	if a.closed.Load() {
		a.Peer = a.dialed
		a.Finished.Store(true)
	}
}

// readReply reads trailer, header and peer when receiving has ended with err. It asks the stream,
// because an interceptor in between may have opened several streams of gRPC.
func (s *Stream) readReply(a *attempt, err error) {
	if outbound.StaysOpen(err) {
		a.unread.Store(true)
		return
	}
	trailer := a.cs.Trailer()
	from, _ := peer.FromContext(a.cs.Context())
	var header metadata.MD
	if s.call.ObservesHeader() {
		header, _ = a.cs.Header()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a.Trailer, a.Header = trailer, header
	if from != nil {
		a.Peer = *from
	}
	a.Finished.Store(true)
	if s.over { // gRPC had not finished the attempt yet when the call ended
		s.call.CopyLate(a.Attempt)
	}
}

// settle settles an attempt, and records whether its own timeout has ended it.
func (s *Stream) settle(a *attempt, err error) {
	a.Expired = err != nil && a.expired.Load()
	s.call.Settle(a.Attempt, err)
}

// abandon releases what an attempt holds.
func (a *attempt) abandon() {
	a.answered()
	if a.cancel != nil {
		a.cancel()
	}
}

// openIn opens an attempt in a context. release releases the context.
func (s *Stream) openIn(ctx context.Context, a *attempt, release context.CancelFunc) error {
	ctx, cancel := context.WithCancel(ctx)
	a.cancel = func() { cancel(); release() }
	if a.Timeout > 0 {
		a.timer = time.AfterFunc(a.Timeout, func() {
			a.expired.Store(s.call.Context.Err() == nil)
			a.cancel()
		})
	}
	opts := append(slices.Clone(s.call.Options), grpc.Peer(&a.dialed), grpc.OnFinish(func(err error) {
		a.Finish(err)
		s.attemptFinished(a, err)
	}))
	opts = a.Watch(opts)
	a.Making.Store(true)
	cs, err := s.streamer(ctx, s.desc, s.conn, s.call.FullMethod, opts...)
	a.Making.Store(false)
	if err != nil {
		return s.explain(a, err)
	}
	a.cs, a.Opened = cs, true
	if a.timer != nil {
		go func() { // until there is a response, or the attempt has ended
			_, _ = cs.Header()
			a.answered()
		}()
	}
	return nil
}

// explain returns the error of an attempt. If the attempt's own timeout has ended it, gRPC's error is a
// cancellation, and explain returns DEADLINE_EXCEEDED.
func (s *Stream) explain(a *attempt, err error) error {
	if err == nil || !a.expired.Load() || status.Code(err) != codes.Canceled {
		return err
	}
	return hoperr.New(codes.DeadlineExceeded, hoperr.DeadlineExpired, "the attempt's timeout has ended it")
}

// endReplacement gives the call back to the holder of mu. If the call's context or connection has ended
// meanwhile, it ends the call, because no other goroutine may notice.
func (s *Stream) endReplacement(a *attempt) {
	s.mu.Lock()
	defer s.unlock()
	s.driving = false
	if a != nil {
		s.finishIfGone(a)
	}
	if s.call.Context.Err() != nil {
		s.contextEndedLocked() // nobody else may have noticed
	}
}

// finishIfGone ends the call if its attempt has ended and no other can follow because the call's
// context or connection has ended. The application may never call the stream again.
func (s *Stream) finishIfGone(a *attempt) {
	if a.closed.Load() && s.gone() {
		s.finishLocked(a, a.result)
	}
}

// gone reports whether the call's context or connection has ended.
func (s *Stream) gone() bool {
	return s.call.Context.Err() != nil || s.conn != nil && s.conn.GetState() == connectivity.Shutdown
}

// attemptFinished is called by gRPC when a stream of an attempt has ended: within one of this package's
// own calls, which then handles it, or because its context was cancelled or its connection closed.
func (s *Stream) attemptFinished(a *attempt, err error) {
	s.mu.Lock()
	defer s.unlock()
	a.result = err
	a.closed.Store(true)
	if !s.driving && s.current == a {
		s.finishIfGone(a)
	}
}

// commit makes an attempt the last, unless the stream is committed already.
func (s *Stream) commit(a *attempt, by string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commitLocked(a, by)
}

func (s *Stream) commitLocked(a *attempt, by string) {
	if by == telemetry.CommittedByMessage || by == telemetry.CommittedByHeader {
		a.answered()
	}
	if s.committed.Load() != nil {
		return
	}
	a.committedBy = by
	s.sent.drop(s.client)
	s.committed.Store(a)
	s.change()
}

// commitCurrent commits an attempt unless it is being replaced.
func (s *Stream) commitCurrent(a *attempt, by string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.driving || s.current != a {
		return false
	}
	s.commitLocked(a, by)
	return true
}

// answered lifts the attempt's timeout, which bounds the time until a response.
func (a *attempt) answered() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// finish ends the call with the status of its last attempt.
func (s *Stream) finish(a *attempt, err error) {
	s.mu.Lock()
	defer s.unlock()
	s.finishLocked(a, err)
}

func (s *Stream) finishLocked(a *attempt, err error) {
	if s.over {
		return
	}
	err = s.explain(a, err)
	received := a.received.Load() > 0
	a.Answered = received && s.call.Context.Err() != nil
	s.settle(a, err)
	s.call.Conclude(a.Attempt, err, received)
	a.abandon()
	s.traceMessages(a)
	s.call.EndAttempt(a.Attempt, err, s.call.Decision)
	s.call.CopyTo(a.Attempt)
	s.endLocked(err)
}

// traceMessages records on the attempt's span how many messages were sent and received.
func (s *Stream) traceMessages(a *attempt) {
	s.call.RecordMessages(a.Attempt, a.sent.Load(), a.received.Load(), a.committedBy)
}

// failed handles an attempt that has failed while the stream was open: another one replaces it, or the
// call ends. It is called with recv held, and with send held if sending is set. It unlocks send, or
// leaves that to sendAgain, which unlocks send when everything that was kept has been sent again.
func (s *Stream) failed(a *attempt, err error, sending bool) (again bool, _ error) {
	a.cancel() // a sender that is blocked on it returns
	if !sending {
		s.send.Lock()
	}
	s.mu.Lock()
	switch {
	case s.over: // the status that belongs to the trailer counts
		err = s.explain(a, err)
	case s.committed.Load() != nil: // what was sent has become too much to keep
		s.finishLocked(a, err)
		err = s.result
	default:
		s.driving = true
	}
	driving := s.driving
	messages, closedSend := s.sent.messages, s.closedSend // the last attempt drops them
	s.unlock()
	if !driving {
		s.send.Unlock()
		return false, err
	}
	replaced := false
	defer func() {
		if !replaced { // something below panicked
			s.giveUp()
			s.send.Unlock()
		}
	}()
	err = s.explain(a, err)
	s.settle(a, err)
	err = s.replace(a, err)
	replaced = true
	if err != nil {
		s.mu.Lock()
		s.driving = false
		s.mu.Unlock()
		s.send.Unlock()
		return false, err
	}
	next := s.lastAttempt()
	s.sendAgain(next, messages, closedSend)
	s.endReplacement(next)
	return true, nil
}

// giveUp ends the call after a panic.
func (s *Stream) giveUp() {
	s.mu.Lock()
	defer s.unlock()
	s.driving = false
	switch a := s.current; {
	case s.over:
	case a != nil && a.cs != nil && !a.Settled():
		s.finishLocked(a, hoperr.ErrPanicked)
	default:
		s.endLocked(hoperr.ErrPanicked)
	}
}

// replace opens an attempt in place of one that has failed, or ends the call and returns its error.
func (s *Stream) replace(a *attempt, err error) error {
	a.abandon()
	s.traceMessages(a)
	if err = s.open(a, err); err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.unlock()
	s.call.CopyTo(s.current.Attempt)
	s.endLocked(err)
	return err
}

// sendAgain sends everything that was kept on a new attempt, and then unlocks send.
//
// It sends in a goroutine of its own, because a server may stop reading until its responses are read,
// and the caller of sendAgain is the one that reads them.
func (s *Stream) sendAgain(a *attempt, messages []message, closedSend bool) {
	if len(messages) == 0 && !closedSend {
		s.send.Unlock()
		return
	}
	go func() {
		defer s.send.Unlock()
		defer s.keepPanic(a)
		for _, sent := range messages {
			m, err := sent.again()
			if err != nil {
				a.cancel()
				return
			}
			if a.cs.SendMsg(m) != nil {
				return // the receiver finds out why
			}
			a.sent.Add(1)
		}
		if closedSend {
			_ = a.cs.CloseSend()
		}
	}()
}

// keepPanic recovers a panic of code below Hopbound and keeps it for the receiver, in whose goroutine
// it would have happened without Hopbound.
func (s *Stream) keepPanic(a *attempt) {
	if v := recover(); v != nil {
		s.panicked.Store(&v)
		a.cancel()
	}
}

// passPanic panics with the value that keepPanic has kept, if there is one.
func (s *Stream) passPanic() {
	if v := s.panicked.Load(); v != nil {
		s.giveUp()
		panic(*v)
	}
}
