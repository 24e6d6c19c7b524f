package stream

import (
	"errors"
	"io"

	"github.com/hopbound/hopbound/internal/telemetry"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

// sendMsg sends a message, and keeps it while the stream is open.
func (s *Stream) sendMsg(m any) error {
	var sent message
	if s.committed.Load() == nil {
		sent = s.encode(m)
	}
	s.send.Lock()
	held := true // until it is unlocked, or passed on to sendAgain
	defer func() {
		if held {
			s.send.Unlock()
		}
	}()
	a := s.keep(sent)
	if a == nil {
		return io.EOF
	}
	err := a.cs.SendMsg(m)
	switch {
	case err == nil:
		a.sent.Add(1)
		return nil
	case !errors.Is(err, io.EOF): // the failure is on this side, and another attempt would not help
		s.commit(a, "")
		s.readReply(a, err)
		s.finish(a, err)
		return err
	case s.committed.Load() != nil:
		return err
	case !s.recv.TryLock(): // the receiver finds out why; the message is kept
		return nil
	}
	defer s.recv.Unlock()
	if header, _ := a.cs.Header(); header != nil { // the server has answered, and receives no more
		s.commit(a, telemetry.CommittedByHeader)
		return io.EOF
	}
	err = a.cs.RecvMsg(&emptypb.Empty{}) // without a header there is no message
	s.readReply(a, err)
	if err == nil || errors.Is(err, io.EOF) {
		s.finish(a, nil)
		return io.EOF
	}
	held = false
	if again, _ := s.failed(a, err, true); !again {
		return io.EOF
	}
	return nil
}

// keep keeps a message while the stream is open, and returns the attempt to send it on, or nil if the
// call is over. A message that would exceed the buffer commits the stream.
func (s *Stream) keep(m message) *attempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch a := s.committed.Load(); {
	case a != nil:
		return a
	case s.over:
		return nil
	}
	if !s.sent.add(s.client, s.call.Buffer, m) {
		s.commitLocked(s.current, telemetry.CommittedByBuffer)
	}
	return s.current
}

func (s *Stream) closeSend() error {
	s.send.Lock()
	defer s.send.Unlock()
	s.mu.Lock()
	s.closedSend = true
	a := s.current
	s.mu.Unlock()
	if a == nil || a.cs == nil {
		return nil
	}
	return a.cs.CloseSend()
}

// recvMsg receives a message. The first commits the stream.
func (s *Stream) recvMsg(m any) error {
	if a := s.committed.Load(); a != nil {
		return s.recvOn(a, m)
	}
	s.recv.Lock()
	defer s.recv.Unlock()
	for {
		a, err := s.underWay()
		if err != nil {
			return err
		}
		if s.committed.Load() == a {
			return s.recvOn(a, m)
		}
		err = a.cs.RecvMsg(m)
		switch {
		case err == nil:
			s.commit(a, telemetry.CommittedByMessage)
			s.receivedOn(a)
			return nil
		case errors.Is(err, io.EOF):
			s.readReply(a, err)
			s.finish(a, nil)
			return err
		}
		s.passPanic()
		s.readReply(a, err)
		if !s.desc.ServerStreams {
			if header, _ := a.cs.Header(); header != nil { // the message may be in m already
				s.commit(a, telemetry.CommittedByMessage)
			}
		}
		if again, err := s.failed(a, err, false); !again {
			return err
		}
	}
}

// underWay returns the attempt under way, or the error of the call if the call is over and was not
// committed to an attempt.
func (s *Stream) underWay() (*attempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over && s.committed.Load() == nil {
		if s.result == nil {
			return nil, io.EOF
		}
		return nil, s.result
	}
	return s.current, nil
}

// recvOn receives on the last attempt.
func (s *Stream) recvOn(a *attempt, m any) error {
	err := a.cs.RecvMsg(m)
	if err != nil {
		s.passPanic()
		s.readReply(a, err)
	}
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
func (s *Stream) receivedOn(a *attempt) {
	if a.received.Add(1) == 1 {
		a.answered()
		s.takeBack(a)
	}
	if !s.desc.ServerStreams {
		s.readReply(a, nil)
		s.finish(a, nil)
	}
}

// headerOf returns the response header of the last attempt.
func (s *Stream) headerOf(a *attempt) (metadata.MD, error) {
	header, err := a.cs.Header()
	if header != nil {
		a.answered()
		s.takeBack(a)
	}
	return header, err
}

// takeBack takes back the tokens that a stream has lent, once it has started to answer, so that other
// calls of the request can use them. The header must say that the server has returned them: a header
// may also come from an interceptor or a proxy that does not know Hopbound.
func (s *Stream) takeBack(a *attempt) {
	if !s.desc.ServerStreams || a.Loan().Tokens() == 0 || s.call.Observe {
		return
	}
	header, _ := a.cs.Header() // it has arrived
	values := header[wire.ReportKey]
	if len(values) != 1 {
		return
	}
	r, ok := wire.ParseReport(values[0])
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok && !s.driving { // else it is being replaced
		a.Loan().Answered(r.Used)
	}
}

// responseHeader returns the response header, which commits the stream.
func (s *Stream) responseHeader() (metadata.MD, error) {
	for !s.recv.TryLock() { // another goroutine receives, and replaces a failed attempt
		s.mu.Lock()
		a, over, changed := s.current, s.over, s.changed
		s.mu.Unlock()
		if over {
			return s.lastHeader()
		}
		if a != nil && a.cs != nil {
			if header, err := s.headerOf(a); header != nil && s.commitCurrent(a, telemetry.CommittedByHeader) {
				return header, err
			}
		}
		select {
		case <-changed:
		case s.recv <- struct{}{}:
			s.recv.Unlock()
		}
	}
	defer s.recv.Unlock()
	for {
		s.passPanic()
		a, err := s.underWay()
		if err != nil || s.ended() {
			return s.lastHeader()
		}
		if s.committed.Load() == a {
			return s.headerOf(a)
		}
		header, err := s.headerOf(a)
		if header != nil && err == nil {
			s.commit(a, telemetry.CommittedByHeader)
			return header, nil
		}
		err = a.cs.RecvMsg(&emptypb.Empty{}) // without a header there is no message
		s.readReply(a, err)
		if err == nil || errors.Is(err, io.EOF) {
			s.finish(a, nil)
			return nil, nil //nolint:nilnil // as gRPC does
		}
		s.passPanic()
		if again, _ := s.failed(a, err, false); !again {
			return s.lastHeader()
		}
	}
}

// lastHeader returns the header of a stream that is over, if there was one. As in gRPC, RecvMsg returns
// the error.
func (s *Stream) lastHeader() (metadata.MD, error) {
	if a := s.lastAttempt(); a != nil {
		return a.cs.Header()
	}
	return nil, nil //nolint:nilnil // as gRPC does
}
