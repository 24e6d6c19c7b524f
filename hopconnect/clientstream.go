package hopconnect

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"sync"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// WrapStreamingClient makes a call that streams.
func (i *clientInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		ctx, cancel := context.WithCancel(ctx)
		return &clientConn{StreamingClientConn: next(ctx, spec), interceptor: i, next: next, ctx: ctx, cancel: cancel}
	}
}

// clientConn is a call that streams, as connect-go sees it. The call starts when the application first sends or receives,
// because it may set headers until then. The embedded connection is never used for messages: it has the headers that
// the application sets, and knows the peer.
type clientConn struct {
	connect.StreamingClientConn
	interceptor *clientInterceptor
	next        connect.StreamingClientFunc
	ctx         context.Context //nolint:containedctx // of the call
	cancel      context.CancelFunc

	start    sync.Once
	stream   grpc.ClientStream // nil if the call could not start
	err      error             // why it could not
	received bool              // the only response
}

// open starts the call.
func (c *clientConn) open() error {
	c.start.Do(func() {
		spec, header := c.Spec(), c.RequestHeader().Clone()
		desc := &grpc.StreamDesc{
			StreamName:    spec.Procedure,
			ClientStreams: spec.StreamType&connect.StreamTypeClient != 0,
			ServerStreams: spec.StreamType&connect.StreamTypeServer != 0,
		}
		c.stream, c.err = c.interceptor.stream(outgoing(c.ctx, header), desc, nil, spec.Procedure,
			func(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				conn := c.next(ctx, spec)
				prepare(ctx, conn.RequestHeader(), header)
				s := &attemptStream{conn: conn, ctx: ctx, desc: desc, opts: opts, answer: answer{addr: address(conn.Peer().Addr)}}
				if desc.ClientStreams { // gRPC opens a stream before its first message
					if err := conn.Send(nil); err != nil && !errors.Is(err, io.EOF) {
						return nil, s.finish(err)
					}
				}
				return s, nil
			}, interceptors.Target(c.Peer().Addr))
	})
	return toConnect(c.err)
}

// Send sends a message; nil opens the stream.
func (c *clientConn) Send(message any) error {
	if err := c.open(); err != nil || message == nil {
		return err
	}
	return toConnect(c.stream.SendMsg(message))
}

// CloseRequest ends the requests.
func (c *clientConn) CloseRequest() error {
	if err := c.open(); err != nil {
		return err
	}
	return toConnect(c.stream.CloseSend())
}

// Receive receives a message.
func (c *clientConn) Receive(message any) error {
	if err := c.open(); err != nil {
		return err
	}
	if c.received {
		return io.EOF
	}
	err := c.stream.RecvMsg(message)
	c.received = err == nil && c.Spec().StreamType&connect.StreamTypeServer == 0
	return toConnect(err)
}

// ResponseHeader returns the header of the response.
func (c *clientConn) ResponseHeader() http.Header {
	header := http.Header{}
	if c.open() == nil {
		if md, err := c.stream.Header(); err == nil {
			setHeaders(header, md)
		}
	}
	return header
}

// ResponseTrailer returns the trailer of the response.
func (c *clientConn) ResponseTrailer() http.Header {
	trailer := http.Header{}
	if c.open() == nil {
		setHeaders(trailer, c.stream.Trailer())
	}
	return trailer
}

// CloseResponse ends the call.
func (c *clientConn) CloseResponse() error {
	c.cancel()
	return nil
}

// attemptStream is one attempt of a call that streams, as gRPC's interceptors see it.
type attemptStream struct {
	conn connect.StreamingClientConn
	ctx  context.Context //nolint:containedctx // of the attempt
	desc *grpc.StreamDesc
	opts []grpc.CallOption

	mu       sync.Mutex // guards what follows
	answer   answer
	answered bool // a message was received
	finished bool
}

// finish records the end of the attempt.
func (s *attemptStream) finish(err error) error {
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	result := toStatus(err)
	if s.finished {
		return result
	}
	s.finished = true
	if err != nil {
		s.answer.failed(err)
	} else {
		s.answered = true
		s.answer.header, s.answer.trailer = toMetadata(s.conn.ResponseHeader()), toMetadata(s.conn.ResponseTrailer())
	}
	s.answer.copyTo(s.opts, result)
	_ = s.conn.CloseResponse()
	return result
}

// Header returns the header of the response. As in gRPC, a failure without a message has none.
func (s *attemptStream) Header() (metadata.MD, error) {
	s.mu.Lock()
	failed := s.finished && !s.answered
	s.mu.Unlock()
	if failed {
		return nil, nil //nolint:nilnil // as gRPC does
	}
	return toMetadata(s.conn.ResponseHeader()), nil
}

// Trailer returns the trailer after the attempt has ended.
func (s *attemptStream) Trailer() metadata.MD {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer.trailer
}

// CloseSend ends the requests.
func (s *attemptStream) CloseSend() error {
	if err := s.conn.CloseRequest(); err != nil && !errors.Is(err, io.EOF) {
		return s.finish(err)
	}
	return nil
}

// Context returns the context of the attempt.
func (s *attemptStream) Context() context.Context { return s.ctx }

// SendMsg sends a message. If the server has ended the attempt, it returns io.EOF, and RecvMsg returns why.
func (s *attemptStream) SendMsg(message any) error {
	err := s.conn.Send(message)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return s.finish(err)
}

// RecvMsg receives a message. If there can be only one, RecvMsg also receives the end of the attempt.
func (s *attemptStream) RecvMsg(message any) error {
	err := s.conn.Receive(message)
	if err == nil {
		s.mu.Lock()
		s.answered = true
		s.mu.Unlock()
	}
	if err == nil && !s.desc.ServerStreams {
		if end := s.conn.Receive(reflect.New(reflect.TypeOf(message).Elem()).Interface()); end != nil {
			return s.finish(end)
		}
		return s.finish(connect.NewError(connect.CodeUnimplemented, errors.New("the server sent more than one response")))
	}
	if err == nil {
		return nil
	}
	if result := s.finish(err); result != nil {
		return result
	}
	return io.EOF
}
