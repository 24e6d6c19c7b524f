package hopconnect

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

type clientInterceptor struct {
	unary  grpc.UnaryClientInterceptor
	stream grpc.StreamClientInterceptor
}

// NewClientInterceptor returns an interceptor that makes the calls of connect-go's clients as calls of a Hopbound client.
// Give it to [connect.WithInterceptors] as the first one: it makes several attempts, each of which runs the interceptors
// after it.
//
// A call with an idempotency key has it in its header Idempotency-Key, from [idempotency.WithKey], or from the handler's
// own key. Calls are not hedged. The name of the target is the host of the client's URL. The interceptor is safe for
// concurrent use.
func NewClientInterceptor(client *interceptors.Client) connect.Interceptor {
	return &clientInterceptor{client.UnaryInterceptor(), client.StreamInterceptor()}
}

// WrapStreamingHandler returns next: the interceptor is for clients.
func (*clientInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// WrapUnary makes a unary call.
func (i *clientInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if !req.Spec().IsClient {
			return next(ctx, req)
		}
		var response connect.AnyResponse
		header := req.Header().Clone()
		err := i.unary(outgoing(ctx, header), req.Spec().Procedure, req.Any(), &response, nil,
			func(ctx context.Context, _ string, message, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
				prepare(ctx, req.Header(), header)
				a := answer{addr: address(req.Peer().Addr)}
				result, err := next(ctx, withMessage(req, message))
				if err != nil {
					a.failed(err)
				} else {
					a.header, a.trailer = toMetadata(result.Header()), toMetadata(result.Trailer())
					*reply.(*connect.AnyResponse) = result //nolint:errcheck // it is &response
				}
				err = toStatus(err)
				a.copyTo(opts, err)
				return err
			}, interceptors.Target(req.Peer().Addr))
		restore(req.Header(), header)
		if err != nil {
			return nil, toConnect(err)
		}
		return response, nil
	}
}

// outgoing returns a context for the interceptors of gRPC. The metadata in ctx is for calls of gRPC, and is not sent.
func outgoing(ctx context.Context, header http.Header) context.Context {
	md := metadata.MD{}
	if keys := header.Values(keyHeader); len(keys) > 0 {
		md[strings.ToLower(keyHeader)] = keys
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// prepare gives an attempt its header: that of the call, and the metadata of the attempt. The header may contain that of
// an incoming request, which the application has forwarded.
func prepare(ctx context.Context, header, original http.Header) {
	restore(header, original)
	for _, name := range []string{"Hop-Context", "Hop-Report", "Grpc-Previous-Rpc-Attempts"} {
		header.Del(name)
	}
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		setHeaders(header, md)
	}
}

// restore makes a header what it was before the call, because the application may use the request again.
func restore(header, original http.Header) {
	clear(header)
	maps.Copy(header, original)
}

// withMessage returns a request with another message.
func withMessage(req connect.AnyRequest, message any) connect.AnyRequest {
	if message == req.Any() {
		return req
	}
	return &otherMessage{req, message}
}

type otherMessage struct {
	connect.AnyRequest
	message any
}

func (r *otherMessage) Any() any { return r.message }

// answer is what an attempt tells the client about its reply, as call options of gRPC do.
type answer struct {
	addr            net.Addr
	header, trailer metadata.MD
}

// failed records an error. A server's error has metadata; the others are made by connect-go itself.
func (a *answer) failed(err error) {
	failed := (*connect.Error)(nil)
	if errors.As(err, &failed) && connect.IsWireError(err) {
		a.trailer = toMetadata(failed.Meta(), http.Header{":wire": {"yes"}})
	} else if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		a.addr = nil // no server has seen the attempt
	}
}

// copyTo gives the answer to the call options that receive it.
func (a *answer) copyTo(opts []grpc.CallOption, err error) {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = a.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = a.trailer
		case grpc.PeerCallOption:
			o.PeerAddr.Addr = a.addr
		case grpc.OnFinishCallOption:
			defer o.OnFinish(err)
		}
	}
}

// address is the address of a peer.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }
