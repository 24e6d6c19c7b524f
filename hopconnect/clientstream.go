package hopconnect

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// WrapStreamingClient makes a call that streams.
func (i *clientInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		c := &clientConn{interceptor: i, next: next, spec: spec, caller: ctx}
		c.ctx, c.cancel = context.WithCancel(ctx)
		unused, cancel := context.WithCancel(ctx)
		c.StreamingClientConn = next(unused, spec)
		c.initial = c.RequestHeader().Clone()
		cancel()
		_ = c.StreamingClientConn.CloseResponse() // interceptors may hold something for it
		return c
	}
}

// clientConn is a call that streams, as connect-go sees it. The call starts when the application first sends or receives,
// because it may set headers until then. The embedded connection is never used for messages: it has the headers that
// the application sets, and knows the peer.
type clientConn struct {
	connect.StreamingClientConn
	interceptor *clientInterceptor
	next        connect.StreamingClientFunc
	spec        connect.Spec
	initial     http.Header     // before the application changed it
	caller      context.Context //nolint:containedctx // from which that of the call is derived
	ctx         context.Context //nolint:containedctx // of the call
	cancel      context.CancelFunc

	start   sync.Once
	stream  grpc.ClientStream // nil if the call could not start
	err     error             // why it could not
	current atomic.Pointer[attemptStream]
	ended   error // what Receive returns from now on
}

// open starts the call.
func (c *clientConn) open() error {
	c.start.Do(func() {
		desc := &grpc.StreamDesc{
			StreamName:    c.spec.Procedure,
			ClientStreams: c.spec.StreamType&connect.StreamTypeClient != 0,
			ServerStreams: c.spec.StreamType&connect.StreamTypeServer != 0,
		}
		changed, removed := c.changedHeader()
		c.stream, c.err = c.interceptor.stream(outgoing(c.ctx, changed), desc, nil, c.spec.Procedure,
			func(ctx context.Context, desc *grpc.StreamDesc, _ *grpc.ClientConn, _ string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				conn := c.next(withMetadataOf(ctx, c.caller), c.spec)
				for _, name := range removed {
					delete(conn.RequestHeader(), name)
				}
				setOutgoing(conn.RequestHeader(), ctx, changed)
				s := c.newAttempt(ctx, conn, desc, opts)
				c.current.Store(s)
				if desc.ClientStreams { // gRPC opens a stream before its first message
					if err := conn.Send(nil); err != nil && !errors.Is(err, io.EOF) {
						return nil, s.finish(err)
					}
				}
				return s, nil
			}, interceptors.Target(c.Peer().Addr))
	})
	return forCaller(c.err)
}

// changedHeader returns the headers that the application has set, and the names of those that it has removed. The others
// are set again for each attempt.
func (c *clientConn) changedHeader() (changed http.Header, removed []string) {
	changed = maps.Clone(c.RequestHeader())
	for name, values := range c.initial {
		if now, ok := changed[name]; !ok {
			removed = append(removed, name)
		} else if slices.Equal(now, values) {
			delete(changed, name)
		}
	}
	return changed, removed
}

// Send sends a message; nil opens the stream.
func (c *clientConn) Send(message any) error {
	if err := c.open(); err != nil || message == nil {
		return err
	}
	err := c.stream.SendMsg(message)
	if ended := c.caller.Err(); ended != nil && (err == nil || errors.Is(err, io.EOF)) {
		return contextError(ended)
	}
	return forCaller(err)
}

// CloseRequest ends the requests.
func (c *clientConn) CloseRequest() error {
	if err := c.open(); err != nil {
		return err
	}
	return forCaller(c.stream.CloseSend())
}

// Receive receives a message.
func (c *clientConn) Receive(message any) error {
	if err := c.open(); err != nil {
		return err
	}
	if c.ended != nil {
		return c.ended
	}
	err := forCaller(c.stream.RecvMsg(message))
	switch {
	case err != nil:
		c.ended = err
		c.cancel() // the application need not close a stream that has ended
	case c.spec.StreamType&connect.StreamTypeServer == 0:
		c.ended = io.EOF
	}
	return err
}

// ResponseHeader returns the header of the response.
func (c *clientConn) ResponseHeader() http.Header {
	if c.open() != nil {
		return http.Header{}
	}
	_, _ = c.stream.Header() // waits until no other attempt can follow
	return c.current.Load().conn.ResponseHeader()
}

// ResponseTrailer returns the trailer of the response.
func (c *clientConn) ResponseTrailer() http.Header {
	if c.open() != nil {
		return http.Header{}
	}
	return c.current.Load().responseTrailer()
}

// CloseResponse ends the call.
func (c *clientConn) CloseResponse() error {
	c.cancel()
	if s := c.current.Load(); s != nil {
		_ = s.conn.CloseResponse()
	}
	return nil
}

// attemptStream is one attempt of a call that streams, as gRPC's interceptors see it.
type attemptStream struct {
	call *clientConn
	conn connect.StreamingClientConn
	ctx  context.Context //nolint:containedctx // of the attempt
	desc *grpc.StreamDesc
	opts []grpc.CallOption

	unwatch  func() bool
	mu       sync.Mutex // guards what follows
	answer   answer
	trailer  http.Header // after the last message
	answered bool        // a message was received
	finished bool
}

// newAttempt returns an attempt that ends with its context at the latest, even if the application never calls it again.
func (c *clientConn) newAttempt(ctx context.Context, conn connect.StreamingClientConn, desc *grpc.StreamDesc, opts []grpc.CallOption) *attemptStream {
	addr := addressOf(conn.Peer().Addr)
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: addr})
	s := &attemptStream{call: c, conn: conn, ctx: ctx, desc: desc, opts: opts, answer: answer{addr: addr}}
	s.unwatch = context.AfterFunc(ctx, func() { _ = s.finish(contextError(ctx.Err())) })
	return s
}

// ended records the end of receiving.
func (s *attemptStream) ended(err error) error {
	header, trailer := s.conn.ResponseHeader(), s.conn.ResponseTrailer().Clone()
	_ = s.conn.CloseResponse()
	s.mu.Lock()
	s.trailer = trailer
	if errors.Is(err, io.EOF) && !s.finished {
		s.answered = true
		s.answer.header, s.answer.trailer = toMetadata(header), toMetadata(trailer)
	}
	s.mu.Unlock()
	return s.finish(err)
}

// finish records the end of the attempt.
func (s *attemptStream) finish(err error) error {
	s.unwatch()
	if err = sentError(s.ctx, err); errors.Is(err, io.EOF) {
		err = nil
	}
	result := toStatus(err)
	s.mu.Lock()
	if s.finished {
		s.mu.Unlock()
		return result
	}
	s.finished = true
	if err != nil {
		s.answer.failed(err)
	}
	end := s.answer
	s.mu.Unlock()
	end.copyTo(s.opts, result)
	return result
}

// responseTrailer returns the trailer after the last message.
func (s *attemptStream) responseTrailer() http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trailer == nil {
		return http.Header{}
	}
	return s.trailer
}

// Header returns the header of the response. As in gRPC, a failure without a message has none.
func (s *attemptStream) Header() (metadata.MD, error) {
	s.mu.Lock()
	failed := s.finished && !s.answered
	s.mu.Unlock()
	if failed {
		return nil, nil //nolint:nilnil // as gRPC does
	}
	header := s.conn.ResponseHeader()
	if len(header) == 0 || len(header["Grpc-Status"]) > 0 {
		return nil, nil //nolint:nilnil // as gRPC does
	}
	return toMetadata(header), nil
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

// SendMsg sends a message. If the attempt has ended, RecvMsg returns why. Unlike gRPC, connect-go does not say before
// RecvMsg whether there is a response, so that SendMsg returns io.EOF only if no other attempt can follow.
func (s *attemptStream) SendMsg(message any) error {
	err := s.conn.Send(message)
	if err != nil && s.ctx.Err() != nil {
		err = io.EOF
	}
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, io.EOF):
		return s.finish(err)
	case s.call.stream.Context() == s.ctx: // Hopbound's stream has the context of its attempt when that is the last
		return err
	default:
		return nil
	}
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
			return s.ended(end)
		}
		return s.ended(connect.NewError(connect.CodeUnimplemented, errors.New("the server sent more than one response")))
	}
	if err == nil {
		return nil
	}
	if result := s.ended(err); result != nil {
		return result
	}
	return io.EOF
}
