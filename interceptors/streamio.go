package interceptors

import (
	"errors"
	"io"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"
)

// sendMsg sends a message, and keeps what it is while the stream is open.
func (s *streamCall) sendMsg(m any) error {
	var sent sentMessage
	if s.final.Load() == nil {
		sent = s.sent(m)
	}
	s.send.enter()
	held := true // until it is freed, or handed on to whoever sends again
	defer func() {
		if held {
			s.send.leave()
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
	case !errors.Is(err, io.EOF): // made on this side, so that another attempt would not help
		s.commit(a, "")
		s.readReply(a, err)
		s.finish(a, err)
		return err
	case s.final.Load() != nil:
		return err
	case !s.recv.tryEnter(): // whoever receives finds out why; it is kept
		return nil
	}
	defer s.recv.leave()
	if header, _ := a.cs.Header(); header != nil { // it has been answered, and there is nobody to send to
		s.commit(a, byHeader)
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

// keep keeps a message while the stream is open, and returns the attempt to send
// it on, or nil if the call is over. What is too much to keep commits.
func (s *streamCall) keep(m sentMessage) *streamAttempt {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch a := s.final.Load(); {
	case a != nil:
		return a
	case s.over:
		return nil
	}
	if !s.kept.add(s.Client, s.buffer, m) {
		s.commitLocked(s.current, byBuffer)
	}
	return s.current
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
			s.readReply(a, err)
			s.finish(a, nil)
			return err
		}
		s.passPanic()
		s.readReply(a, err)
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
func (s *streamCall) receivedOn(a *streamAttempt) {
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
func (s *streamCall) headerOf(a *streamAttempt) (metadata.MD, error) {
	header, err := a.cs.Header()
	if header != nil {
		a.answered()
		s.takeBack(a)
	}
	return header, err
}

// takeBack takes back the tokens of a stream that has started to answer, so that
// other calls of the request can use them, if the header says that its server has given
// them back. A header may be sent by an interceptor or a proxy that knows nothing of
// them.
func (s *streamCall) takeBack(a *streamAttempt) {
	if !s.desc.ServerStreams || a.loan.Tokens() == 0 || s.mode == Observe {
		return
	}
	header, _ := a.cs.Header() // it is there
	values := header[wire.ReportKey]
	if len(values) != 1 {
		return
	}
	r, ok := wire.ParseReport(values[0])
	s.mu.Lock()
	defer s.mu.Unlock()
	if ok && !s.driving { // else it is being replaced
		a.loan.Answered(r.Used)
	}
}

// responseHeader returns the response header, which commits the stream.
func (s *streamCall) responseHeader() (metadata.MD, error) {
	for !s.recv.tryEnter() { // somebody receives, and replaces what fails
		s.mu.Lock()
		a, over, changed := s.current, s.over, s.changed
		s.mu.Unlock()
		if over {
			return s.lastHeader()
		}
		if a != nil && a.cs != nil {
			if header, err := s.headerOf(a); header != nil && s.commitCurrent(a, byHeader) {
				return header, err
			}
		}
		select {
		case <-changed:
		case s.recv <- struct{}{}:
			s.recv.leave()
		}
	}
	defer s.recv.leave()
	for {
		s.passPanic()
		a, err := s.underWay()
		if err != nil || s.ended() {
			return s.lastHeader()
		}
		if s.final.Load() == a {
			return s.headerOf(a)
		}
		header, err := s.headerOf(a)
		if header != nil && err == nil {
			s.commit(a, byHeader)
			return header, nil
		}
		err = a.cs.RecvMsg(&emptypb.Empty{}) // without a header there is no message
		s.readReply(a, err)
		if err == nil || errors.Is(err, io.EOF) {
			s.finish(a, nil)
			return nil, nil //nolint:nilnil // as gRPC has it
		}
		s.passPanic()
		if again, _ := s.failed(a, err, false); !again {
			return s.lastHeader()
		}
	}
}

// lastHeader returns the header of a stream that is over, if there was one. As
// gRPC has it, the error is for RecvMsg.
func (s *streamCall) lastHeader() (metadata.MD, error) {
	if a := s.lastAttempt(); a != nil {
		return a.cs.Header()
	}
	return nil, nil //nolint:nilnil // as gRPC has it
}
