package hopconnect

import (
	"context"
	"errors"
	"io"
	"net/http"
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

// NewHandlerInterceptor returns an interceptor that runs connect-go's handlers as calls of a Hopbound server. Give it to
// [connect.WithInterceptors] after those that identify the caller and check its permissions, and before all others:
// with a store, a repeated call is answered without the interceptors after it. [idempotency.Tenant] says whose keys
// they are; a handler cannot see the TLS certificate of its caller. The interceptor is safe for concurrent use.
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
		call := newIncoming(ctx, req.Spec(), req.Peer(), req.Header(), http.Header{}, http.Header{})
		var own connect.AnyResponse
		reply, err := i.unary(call.ctx, req.Any(), &grpc.UnaryServerInfo{FullMethod: req.Spec().Procedure},
			func(ctx context.Context, _ any) (any, error) {
				response, err := next(ctx, req)
				if err != nil {
					return nil, toStatus(err)
				}
				own = response
				// A store keeps the metadata together with the message.
				_ = grpc.SetHeader(ctx, toMetadata(response.Header()))
				_ = grpc.SetTrailer(ctx, toMetadata(response.Trailer()))
				return response.Any(), nil
			})
		if err != nil {
			return nil, withMeta(toConnect(err), call.header(), call.trailer())
		}
		if own == nil || own.Any() != reply { // the outcome is that of another run
			own = &replayed{connect.NewResponse(&emptypb.Empty{}), reply}
		}
		setHeaders(own.Header(), call.header())
		setHeaders(own.Trailer(), call.trailer())
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
		if err != nil {
			return withMeta(toConnect(err))
		}
		return nil
	}
}

// incoming is an incoming call, as gRPC's interceptors see it. It is safe for concurrent use.
type incoming struct {
	ctx    context.Context //nolint:containedctx // of the call
	method string

	mu                              sync.Mutex
	responseHeader, responseTrailer http.Header
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

// Method returns the full method.
func (c *incoming) Method() string { return c.method }

// SetHeader sets headers of the response.
func (c *incoming) SetHeader(md metadata.MD) error { return c.set(c.responseHeader, md) }

// SendHeader sets headers too: connect-go sends them with the first message.
func (c *incoming) SendHeader(md metadata.MD) error { return c.set(c.responseHeader, md) }

// SetTrailer sets trailers of the response.
func (c *incoming) SetTrailer(md metadata.MD) error { return c.set(c.responseTrailer, md) }

func (c *incoming) set(header http.Header, md metadata.MD) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	setHeaders(header, md)
	return nil
}

func (c *incoming) header() metadata.MD  { return c.read(c.responseHeader) }
func (c *incoming) trailer() metadata.MD { return c.read(c.responseTrailer) }

func (c *incoming) read(header http.Header) metadata.MD {
	c.mu.Lock()
	defer c.mu.Unlock()
	return toMetadata(header)
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
		return c.StreamingHandlerConn.Send(nil)
	}
	return toConnect(c.stream.SendMsg(message))
}

// Receive receives a message.
func (c *handlerConn) Receive(message any) error { return toConnect(c.stream.RecvMsg(message)) }
