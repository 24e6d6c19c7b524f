package inbound

import (
	"context"
	"sync/atomic"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// StreamInterceptor returns the interceptor of streaming calls.
func (s *Server) StreamInterceptor() grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		if s.installedTwice(ss.Context()) {
			return handler(srv, ss)
		}
		c := s.admit(ss.Context(), info.FullMethod, srv != nil, false)
		defer c.reportPanic()
		if err = c.rejection; err == nil {
			err = c.serveStream(srv, ss, info.IsServerStream, handler)
		}
		c.report(err)
		return err
	}
}

// serveStream runs the handler of a stream within the stream's limits.
func (c *call) serveStream(srv any, ss grpc.ServerStream, answers bool, handler grpc.StreamHandler) error {
	stream := &serverStream{ServerStream: ss, call: c, limits: c.limitStream()}
	stream.lends = answers && c.request.IsHop && !c.observe
	if stream.limits == nil {
		return handler(srv, stream)
	}
	defer func() { _ = stream.limits.end(nil) }() // if the handler panics
	return stream.limits.end(handler(srv, stream))
}

// serverStream is a stream as its handler holds it.
type serverStream struct {
	grpc.ServerStream
	call   *call
	limits *streamLimits // nil if there are no limits

	lends    bool // the caller lent tokens, which return with the first response
	released atomic.Bool
}

// Context returns the handler's context.
func (s *serverStream) Context() context.Context { return &s.call.request }

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

// release returns unused tokens to the caller when the first response is about to be sent, and
// reports them in the response header.
func (s *serverStream) release() {
	if !s.lends || s.released.Swap(true) {
		return
	}
	if used, released := s.call.request.Allotment.Release(); released {
		r := wire.Report{Used: used}
		_ = s.SetHeader(metadata.Pairs(wire.ReportKey, string(r.Append(nil)))) // fails if it was sent
	}
}
