package stream

import (
	"context"
	"errors"
	"io"

	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/outbound"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
)

// race is the race of a server-streaming call that is hedged. It starts when the request is sent.
// The attempt with the first response header wins, because its server has started to answer.
type race struct {
	started bool
	ready   chan struct{} // closed when the race is over
}

// startRace starts the attempts with the request.
func (s *Stream) startRace(request any) error {
	sent := s.encode(request)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.race.started:
		return hoperr.New(codes.Internal, hoperr.Misuse, "a second request was sent on a call that has one")
	case s.over:
		return nil // as in gRPC, RecvMsg returns the error
	}
	s.race.started, s.driving = true, true
	go s.runRace(sent, request)
	return nil
}

// awaitRace waits for the race, if there is one, or for the end of the call.
func (s *Stream) awaitRace() {
	if s.race == nil {
		return
	}
	select {
	case <-s.race.ready:
	case <-s.call.Context.Done():
		s.mu.Lock()
		started := s.race.started
		s.mu.Unlock()
		if started {
			<-s.race.ready
		} else {
			s.contextEnded() // if it has not been noticed yet
		}
	}
	s.passPanic()
}

// runRace makes the attempts. Each sends its own copy of the request, if it can be copied.
func (s *Stream) runRace(sent message, request any) {
	returned := false
	defer func() {
		if !returned { // the panic goes on in the receiver
			v := recover()
			s.panicked.Store(&v)
			s.giveUp()
		}
		close(s.race.ready)
		s.mu.Lock()
		s.unlock() // the call may have ended
	}()
	last, err := s.call.Race(func(ctx context.Context, r *outbound.Runner) error {
		a := &attempt{Attempt: &r.Attempt}
		r.Result = a
		m := request
		if sent.decode != nil {
			like, err := sent.again()
			if err != nil {
				return err
			}
			m = like
		}
		err := s.respond(ctx, a, r, m)
		if err != nil {
			a.Expired = a.expired.Load()
			if a.cs == nil {
				a.notOpened()
			}
			a.abandon()
		}
		return s.explain(a, err)
	})
	a, _ := last.Result.(*attempt) // set before anything can fail
	s.mu.Lock()
	s.current, s.driving = a, false
	if err != nil {
		s.call.CopyTo(a.Attempt)
		s.endLocked(err)
	} else {
		s.commitLocked(a, telemetry.CommittedByHeader)
		s.finishIfGone(a)
	}
	s.mu.Unlock() // OnFinish is called when the race is over
	if err == nil {
		s.takeBack(a)
	}
	returned = true
}

// respond opens an attempt, sends it the request, and waits for a response.
func (s *Stream) respond(ctx context.Context, a *attempt, r *outbound.Runner, request any) error {
	if err := s.openIn(ctx, a, r.Cancel); err != nil {
		return err
	}
	if err := a.cs.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		r.Local = true
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
