package interceptors

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
)

// streamRace is the race of a server-streaming call that is hedged. It begins
// with the request, and is won by the first response header: by then a server
// has begun to answer.
type streamRace struct {
	begun bool
	ready chan struct{} // closed when it is over
}

// startRace sends the request by the hedging policy.
func (s *streamCall) startRace(request any) error {
	sent := s.sent(request)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.race.begun:
		return newError(codes.Internal, ReasonMisuse, "a second request was sent on a call that has one")
	case s.over:
		return nil // as gRPC has it: the error is for RecvMsg
	}
	s.race.begun, s.driving = true, true
	go s.runRace(sent, request)
	return nil
}

// awaitRace waits for the race, if there is one, or for the end of the call.
func (s *streamCall) awaitRace() {
	if s.race == nil {
		return
	}
	select {
	case <-s.race.ready:
	case <-s.ctx.Done():
		s.mu.Lock()
		begun := s.race.begun
		s.mu.Unlock()
		if begun {
			<-s.race.ready
		} else {
			s.contextEnded() // if it has not been noticed yet
		}
	}
	s.passPanic()
}

// runRace makes the attempts. Each sends a message of its own if there can be one.
func (s *streamCall) runRace(sent sentMessage, request any) {
	returned := false
	defer func() {
		if !returned { // the panic goes on in whoever receives
			v := recover()
			s.panicked.Store(&v)
			s.giveUp()
		}
		close(s.race.ready)
		s.mu.Lock()
		s.unlock() // the call may have ended
	}()
	last, err := s.call.race(func(ctx context.Context, r *runner) error {
		a := &streamAttempt{attempt: &r.attempt}
		r.message = a
		message := request
		if sent.again != nil {
			like, err := sent.message()
			if err != nil {
				return err
			}
			message = like
		}
		err := s.respond(ctx, a, r, message)
		if err != nil {
			a.attempt.expired = a.expired.Load()
			if a.cs == nil {
				a.notOpened()
			}
			a.abandon()
		}
		return s.explain(a, err)
	})
	a, _ := last.message.(*streamAttempt) // set before anything can fail
	s.mu.Lock()
	s.current, s.driving = a, false
	if err != nil {
		a.tell(s.observers)
		s.endLocked(err)
	} else {
		s.commitLocked(a, byHeader)
		s.finishIfGone(a)
	}
	s.mu.Unlock() // the user is told when the race is over
	if err == nil {
		s.takeBack(a)
	}
	returned = true
}

// respond opens an attempt, sends it the request, and waits for a response.
func (s *streamCall) respond(ctx context.Context, a *streamAttempt, r *runner, request any) error {
	if err := s.openIn(ctx, a, r.cancel); err != nil {
		return err
	}
	if err := a.cs.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		r.local = true
		return err
	}
	a.sent.Add(1)
	_ = a.cs.CloseSend() // has no error of its own
	if header, err := a.cs.Header(); header != nil && err == nil {
		a.answered()
		return nil
	}
	err := a.cs.RecvMsg(&emptypb.Empty{}) // without a header there is no message
	s.readReply(a, err)
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
