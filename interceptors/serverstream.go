package interceptors

import (
	"context"
	"sync/atomic"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// StreamInterceptor returns the interceptor of streaming calls, for chains that
// are put together by hand. Its place is that of [Server.UnaryInterceptor].
func (s *Server) StreamInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		if s.installedTwice(ss.Context(), info.FullMethod) {
			return handler(srv, ss)
		}
		in := s.admit(ss.Context(), info.FullMethod, srv != nil, false)
		ended := false
		defer func() {
			if !ended { // it may yet be recovered, and then replied to
				in.report(errPanicked)
			}
		}()
		if err = in.refusal; err == nil {
			stream := &serverStream{ServerStream: ss, in: in, limits: in.limitStream()}
			stream.lends = info.IsServerStream && in.request.hop && in.mode == Enforce
			if stream.limits == nil {
				err = handler(srv, stream)
			} else {
				defer func() { _ = stream.limits.end(nil) }() // if it panics
				err = stream.limits.end(handler(srv, stream))
			}
		}
		ended = true
		in.report(err)
		return err
	}
}

// serverStream is a stream as its handler holds it.
type serverStream struct {
	grpc.ServerStream
	in     *incoming
	limits *streamLimits // nil if there are none

	lends    bool // its caller lent it tokens, which go back with the first response
	released atomic.Bool
}

// Context returns the handler's context.
func (s *serverStream) Context() context.Context { return &s.in.request }

// RecvMsg receives a message.
func (s *serverStream) RecvMsg(m any) (err error) {
	if s.limits == nil {
		return s.ServerStream.RecvMsg(m)
	}
	if err := s.limits.enter(); err != nil {
		return err
	}
	defer func() { err = s.limits.leave(err) }()
	return s.ServerStream.RecvMsg(m)
}

// SendMsg sends a message.
func (s *serverStream) SendMsg(m any) (err error) {
	s.release()
	if s.limits == nil {
		return s.ServerStream.SendMsg(m)
	}
	if err := s.limits.enter(); err != nil {
		return err
	}
	s.limits.sending.Store(int64(s.limits.now()) + 1)
	defer func() {
		s.limits.sending.Store(0)
		err = s.limits.leave(err)
	}()
	return s.ServerStream.SendMsg(m)
}

// SendHeader sends the header.
func (s *serverStream) SendHeader(md metadata.MD) error {
	s.release()
	return s.ServerStream.SendHeader(md)
}

// release gives tokens back to the caller when the first response is about to be sent,
// and says so in the header.
func (s *serverStream) release() {
	if !s.lends || s.released.Swap(true) {
		return
	}
	if used, released := s.in.request.allotment.Release(); released {
		r := wire.Report{Used: used}
		_ = s.SetHeader(metadata.Pairs(wire.ReportKey, string(r.Append(nil)))) // fails if it was sent
	}
}
