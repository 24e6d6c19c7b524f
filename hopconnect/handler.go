package hopconnect

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/emptypb"
)

type handlerInterceptor struct {
	unary  grpc.UnaryServerInterceptor
	stream grpc.StreamServerInterceptor
}

// NewHandlerInterceptor returns an interceptor with which connect-go's handlers run behind a Hopbound server. Give it to
// [connect.WithInterceptors] after those that identify the caller and check its permissions, and before all others,
// because a repeated call that a store answers does not reach the interceptors after it. With a store, say whose a key is
// with [idempotency.Tenant]: connect-go does not show a handler the TLS certificate of its caller. The interceptor is safe
// for concurrent use.
func NewHandlerInterceptor(server *interceptors.Server) connect.Interceptor {
	return &handlerInterceptor{server.UnaryInterceptor(), server.StreamInterceptor()}
}

// WrapStreamingClient returns next: the interceptor is for handlers.
func (*handlerInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapUnary runs the handler of a unary call.
func (i *handlerInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if req.Spec().IsClient {
			return next(ctx, req)
		}
		header, trailer := http.Header{}, http.Header{}
		if info, ok := connect.CallInfoForHandlerContext(ctx); ok { // connect-go adds them to those of the response
			header, trailer = info.ResponseHeader(), info.ResponseTrailer()
		}
		call := newIncoming(ctx, req.Spec(), req.Peer(), req.Header(), header, trailer)
		var own connect.AnyResponse
		reply, err := i.unary(call.ctx, req.Any(), &grpc.UnaryServerInfo{FullMethod: req.Spec().Procedure},
			func(ctx context.Context, _ any) (any, error) {
				response, err := next(ctx, req)
				if err != nil {
					meta := metaOf(err).Clone()
					removeReserved(meta)
					call.keep(ctx, nil, meta)
					return nil, toStatus(err)
				}
				own = response
				removeReserved(response.Trailer())
				call.keep(ctx, response.Header(), response.Trailer())
				return response.Any(), nil
			})
		if err != nil {
			return nil, withoutReserved(toConnect(err))
		}
		if own == nil || own.Any() != reply { // the outcome is that of another run
			own = &replayed{connect.NewResponse(&emptypb.Empty{}), reply}
		}
		return own, nil
	}
}

// replayed is a response with a message of any type.
type replayed struct {
	*connect.Response[emptypb.Empty]
	message any
}

func (r *replayed) Any() any { return r.message }

// WrapStreamingHandler runs the handler of a call that streams.
func (i *handlerInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		call := newIncoming(ctx, conn.Spec(), conn.Peer(), conn.RequestHeader(), conn.ResponseHeader(), conn.ResponseTrailer())
		info := &grpc.StreamServerInfo{
			FullMethod:     conn.Spec().Procedure,
			IsClientStream: conn.Spec().StreamType&connect.StreamTypeClient != 0,
			IsServerStream: conn.Spec().StreamType&connect.StreamTypeServer != 0,
		}
		err := i.stream(nil, &serverStream{call, conn}, info, func(_ any, stream grpc.ServerStream) error {
			return toStatus(next(stream.Context(), &handlerConn{conn, stream}))
		})
		return withoutReserved(toConnect(err))
	}
}

// incoming is an incoming call, as gRPC's interceptors see it. It is safe for concurrent use.
type incoming struct {
	ctx    context.Context //nolint:containedctx // of the call
	method string

	mu                              sync.Mutex
	responseHeader, responseTrailer http.Header
	ownHeader, ownTrailer           metadata.MD // of the handler, which connect-go sends
}

func newIncoming(ctx context.Context, spec connect.Spec, from connect.Peer, request, header, trailer http.Header) *incoming {
	c := &incoming{method: spec.Procedure, responseHeader: header, responseTrailer: trailer}
	md := toMetadata(request)
	for _, secret := range []string{"authorization", "cookie"} { // the handler's calls of gRPC could forward them
		delete(md, secret)
	}
	ctx = metadata.NewIncomingContext(peer.NewContext(ctx, &peer.Peer{Addr: address(from.Addr)}), md)
	c.ctx = grpc.NewContextWithServerTransportStream(ctx, c)
	return c
}

// keep gives the metadata of a handler that has returned to a store, which keeps it together with the outcome.
func (c *incoming) keep(ctx context.Context, header, trailer http.Header) {
	c.mu.Lock()
	c.ownHeader, c.ownTrailer = toMetadata(c.responseHeader, header), toMetadata(c.responseTrailer, trailer)
	c.mu.Unlock()
	_ = grpc.SetHeader(ctx, c.ownHeader)
	_ = grpc.SetTrailer(ctx, c.ownTrailer)
}

// Method returns the full method.
func (c *incoming) Method() string { return c.method }

// SetHeader sets headers of the response.
func (c *incoming) SetHeader(md metadata.MD) error { return c.set(c.responseHeader, md, &c.ownHeader) }

// SendHeader sets headers too: connect-go sends them with the first message.
func (c *incoming) SendHeader(md metadata.MD) error { return c.SetHeader(md) }

// SetTrailer sets trailers of the response.
func (c *incoming) SetTrailer(md metadata.MD) error {
	return c.set(c.responseTrailer, md, &c.ownTrailer)
}

func (c *incoming) set(header http.Header, md metadata.MD, own *metadata.MD) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, values := range md {
		if !slices.Equal(values, (*own)[key]) {
			header[http.CanonicalHeaderKey(key)] = values
		}
	}
	return nil
}

// serverStream is a stream, as gRPC's interceptors see it.
type serverStream struct {
	*incoming
	conn connect.StreamingHandlerConn
}

// SetTrailer sets trailers of the response.
func (s *serverStream) SetTrailer(md metadata.MD) { _ = s.incoming.SetTrailer(md) }

// Context returns the context of the call.
func (s *serverStream) Context() context.Context { return s.ctx }

// SendMsg sends a message.
func (s *serverStream) SendMsg(message any) error { return toStatus(s.conn.Send(message)) }

// RecvMsg receives a message.
func (s *serverStream) RecvMsg(message any) error {
	err := s.conn.Receive(message)
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return toStatus(err)
}

// handlerConn is a stream, as connect-go's handlers see it.
type handlerConn struct {
	connect.StreamingHandlerConn
	stream grpc.ServerStream
}

// Send sends a message; nil sends the header.
func (c *handlerConn) Send(message any) error {
	if message == nil {
		_ = c.stream.SendHeader(nil)
		return c.StreamingHandlerConn.Send(nil)
	}
	return toConnect(c.stream.SendMsg(message))
}

// Receive receives a message.
func (c *handlerConn) Receive(message any) error { return toConnect(c.stream.RecvMsg(message)) }
