package interceptors

import (
	"errors"
	"io"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

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
	err := s.sendOn(a, m)
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

// sendOn sends a message on an attempt. If that panics, send is free again.
func (s *streamCall) sendOn(a *streamAttempt, m any) error {
	returned := false
	defer func() {
		if !returned {
			s.send.leave()
		}
	}()
	err := a.cs.SendMsg(m)
	returned = true
	if err == nil {
		a.sent.Add(1)
	}
	return err
}

// resolve finds out why an attempt has ended that a message could not be sent
// on. It is called with recv and send held, and frees send as failed does.
func (s *streamCall) resolve(a *streamAttempt) error {
	if header, _ := a.cs.Header(); header != nil { // it has been answered, and there is nobody to send to
		s.commit(a, byHeader)
		s.send.leave()
		return io.EOF
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
	if a == nil || a.cs == nil {
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
		a, err := s.underWay()
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
		s.passPanic()
		if !s.desc.ServerStreams {
			if header, _ := a.cs.Header(); header != nil { // the message may be in m already
				s.commit(a, byMessage)
			}
		}
		if again, err := s.failed(a, err, false); !again {
			return err
		}
	}
}

// underWay returns the attempt under way, or the error of the call if it is over
// without one that could still be read.
func (s *streamCall) underWay() (*streamAttempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over && s.final.Load() == nil {
		if s.result == nil {
			return nil, io.EOF
		}
		return nil, s.result
	}
	return s.current, nil
}

// recvOn receives on the last attempt.
func (s *streamCall) recvOn(a *streamAttempt, m any) error {
	err := a.cs.RecvMsg(m)
	if err != nil {
		s.passPanic()
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
func (s *streamCall) receivedOn(a *streamAttempt) {
	if a.received.Add(1) == 1 {
		a.answered()
	}
	if !s.desc.ServerStreams {
		s.finish(a, nil)
	}
}

// responseHeader returns the response header of the last attempt.
func (a *streamAttempt) responseHeader() (metadata.MD, error) {
	header, err := a.cs.Header()
	if header != nil {
		a.answered()
	}
	return header, err
}

// responseHeader returns the response header, which commits the stream.
func (s *streamCall) responseHeader() (metadata.MD, error) {
	for !s.recv.tryEnter() { // somebody receives, or this is the user's OnFinish
		a := s.lastAttempt()
		if a == nil {
			return nil, nil //nolint:nilnil // as gRPC has it: the error is for RecvMsg
		}
		header, err := a.responseHeader()
		if s.ended() || header != nil && s.commitCurrent(a, byHeader) {
			return header, err
		}
		s.recv.enter() // who receives finds out what has become of it
		s.recv.leave()
	}
	defer s.recv.leave()
	for {
		if s.ended() {
			if a := s.lastAttempt(); a != nil {
				return a.responseHeader()
			}
			return nil, nil //nolint:nilnil // as gRPC has it: the error is for RecvMsg
		}
		a, err := s.underWay()
		if err != nil {
			continue // it has just ended
		}
		if s.final.Load() == a {
			return a.responseHeader()
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
