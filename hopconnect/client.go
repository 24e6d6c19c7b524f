package hopconnect

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

type clientInterceptor struct {
	unary  grpc.UnaryClientInterceptor
	stream grpc.StreamClientInterceptor
}

// NewClientInterceptor returns an interceptor with which connect-go's clients make their calls through a Hopbound client.
// Give it to [connect.WithInterceptors] as the first one: it makes several attempts, each of which runs the interceptors
// after it.
//
// The idempotency key of a call is that of [idempotency.WithKey], or that of its header Idempotency-Key, or a child key
// of the key under which the handler runs. Calls are not hedged. The name of the target is the host of the client's URL.
// The interceptor is safe for concurrent use.
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
		err := i.unary(outgoing(ctx, req.Header()), req.Spec().Procedure, req.Any(), &response, nil,
			func(attempt context.Context, _ string, message, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
				a := answer{addr: addressOf(req.Peer().Addr)}
				header := http.Header{}
				setOutgoing(header, attempt, req.Header())
				result, err := next(withMetadataOf(attempt, ctx), &attemptRequest{req, header, message})
				err = sentError(attempt, err)
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
		if err != nil {
			return nil, forCaller(err)
		}
		return response, nil
	}
}

// outgoing returns a context in which the header of a call is gRPC's metadata, from which Hopbound's client removes what
// a handler has forwarded and must not.
func outgoing(ctx context.Context, header http.Header) context.Context {
	return metadata.NewOutgoingContext(ctx, toMetadata(header))
}

// setOutgoing sets the metadata of an attempt as headers. The argument own is the header that the application has set.
func setOutgoing(header http.Header, attempt context.Context, own http.Header) {
	md, _ := metadata.FromOutgoingContext(attempt)
	for key, values := range md {
		name := http.CanonicalHeaderKey(key)
		if name == keyHeader && !slices.Equal(values, own[keyHeader]) {
			name = key // net/http repeats a POST if its map has the canonical name, and a child key does not make it safe
		}
		header[name] = values
	}
}

// withMetadataOf returns the context of an attempt with the caller's metadata, which is for calls of gRPC that other
// interceptors may make.
func withMetadataOf(attempt, caller context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(caller)
	return metadata.NewOutgoingContext(attempt, md)
}

// attemptRequest is the request of one attempt. It has a header of its own, because the transport may still read that of
// an earlier attempt.
type attemptRequest struct {
	connect.AnyRequest
	header  http.Header
	message any
}

func (r *attemptRequest) Header() http.Header { return r.header }
func (r *attemptRequest) Any() any            { return r.message }

// answer is what an attempt tells the client about its reply, as call options of gRPC do.
type answer struct {
	addr            net.Addr
	header, trailer metadata.MD
}

// failed records an error. A server's error has metadata; the others are made by connect-go itself.
func (a *answer) failed(err error) {
	if failed, ok := asError(err); ok && connect.IsWireError(err) {
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

// addressOf returns the address of a peer, with its port if that is known.
func addressOf(peer string) net.Addr {
	if at, err := netip.ParseAddrPort(peer); err == nil {
		return net.TCPAddrFromAddrPort(at)
	}
	return address(peer)
}

// address is the address of a peer.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }
