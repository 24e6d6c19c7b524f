package interceptors

import (
	"context"
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"
)

// streamRace is the race of a server-streaming call that is hedged. It begins
// with the request, and is won by the first response header: by then a server
// has begun to answer.
type streamRace struct {
	begun    bool
	ready    chan struct{} // closed when it is over
	panicked any
}

// prepareRace makes ready for a race, and ends the call if it is cancelled
// before there is a request.
func (s *streamCall) prepareRace() {
	s.race = &streamRace{ready: make(chan struct{})}
	context.AfterFunc(s.ctx, func() {
		s.mu.Lock()
		defer s.unlock()
		if !s.race.begun && !s.over {
			s.over, s.result = true, cancelledError()
			if errors.Is(s.ctx.Err(), context.DeadlineExceeded) {
				s.result = newError(codes.DeadlineExceeded, ReasonDeadlineExpired, "the deadline has passed")
			}
			s.end(s.result)
		}
	})
}

// startRace sends the request by the hedging policy.
func (s *streamCall) startRace(request any) {
	s.mu.Lock()
	begun := s.race.begun || s.over
	if !begun {
		s.race.begun, s.driving = true, true
	}
	s.mu.Unlock()
	if !begun {
		go s.runRace(request)
	}
}

// awaitRace waits for the race, if there is one that has begun.
func (s *streamCall) awaitRace() {
	if s.race != nil {
		s.mu.Lock()
		begun := s.race.begun
		s.mu.Unlock()
		if begun {
			<-s.race.ready
			if s.race.panicked != nil {
				panic(s.race.panicked)
			}
		}
	}
}

func (s *streamCall) runRace(request any) {
	returned := false
	defer func() {
		if !returned { // the panic goes on in whoever receives
			s.race.panicked = recover()
			s.mu.Lock()
			s.over, s.result = true, errPanicked
			s.end(errPanicked)
			s.unlock()
		}
		close(s.race.ready)
	}()
	observers := s.takeObservers()
	last, err := s.call.race(func(ctx context.Context, r *runner) error {
		a := &streamAttempt{attempt: &r.attempt}
		r.message = a
		return s.respond(ctx, a, request)
	})
	a, _ := last.message.(*streamAttempt) // set before anything can fail
	s.mu.Lock()
	s.current = a
	if err != nil {
		s.over, s.result = true, err
		last.tell(observers)
		s.end(err)
	} else {
		s.observers = observers
		s.commitLocked(a, byHeader)
	}
	s.unlock()
	s.settleDown(a)
	returned = true
}

// respond opens an attempt, sends it the request, and waits for a response.
func (s *streamCall) respond(ctx context.Context, a *streamAttempt, request any) error {
	opts := append(slices.Clone(s.opts), grpc.Header(&a.header))
	if err := s.openIn(ctx, a, opts); err != nil {
		a.abandon()
		return err
	}
	if err := a.cs.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		a.abandon()
		return err
	}
	a.sent.Add(1)
	_ = a.cs.CloseSend() // has no error of its own
	if header, err := a.cs.Header(); header != nil && err == nil {
		return nil
	}
	err := a.cs.RecvMsg(&emptypb.Empty{}) // without a header there is no message
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	a.attempt.expired = a.expired.Load()
	err = s.explain(a, err)
	a.abandon()
	return err
}
