package interceptors

import (
	"context"
	"errors"

	"github.com/hopbound/hopbound/internal/inbound"
	"github.com/hopbound/hopbound/internal/once"
	"github.com/hopbound/hopbound/internal/policy"
	"google.golang.org/grpc"
)

// Server receives the incoming calls of a process. It rejects calls that have expired, ends the context
// of a handler when its caller stops waiting, gives the caller's tokens to the handler's own calls, and
// reports how many of them were used. It is safe for concurrent use.
type Server struct{ calls *inbound.Server }

// NewServer returns a server. If options are invalid, it returns all errors, joined.
func NewServer(opts ...ServerOption) (*Server, error) {
	var s serverSettings
	for i, opt := range opts {
		if isNil(opt) {
			s.errs = append(s.errs, nilOption(i))
			continue
		}
		opt.applyServer(&s)
	}
	calls, err := inbound.New(inbound.Config{
		Telemetry:     s.telemetry,
		Observe:       s.mode == Observe,
		Edge:          s.edge,
		Limits:        policy.Limits(s.limits),
		MethodLimits:  s.methodLimits,
		AdaptiveFloor: s.adaptiveFloor,
		Store:         s.store,
		Keys:          s.keys,
	})
	if err := errors.Join(append(s.errs, err)...); err != nil {
		return nil, err
	}
	return &Server{calls: calls}, nil
}

// ServerOptions returns the options that add the interceptors to a [grpc.Server]. gRPC runs interceptors
// in the order of the options; [Server.UnaryInterceptor] says which may come before Hopbound's.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.UnaryInterceptor()),
		grpc.ChainStreamInterceptor(s.StreamInterceptor()),
	}
}

// UnaryInterceptor returns the interceptor of unary calls, for chains that are composed by hand. Only
// the interceptors that identify the caller and check its permissions come before it: with
// [WithIdempotency], a call may be answered without the interceptors after it. All others come after it.
func (s *Server) UnaryInterceptor() grpc.UnaryServerInterceptor { return s.calls.UnaryInterceptor() }

// StreamInterceptor returns the interceptor of streaming calls, for chains that are composed by hand. Its
// place in the chain is that of [Server.UnaryInterceptor].
func (s *Server) StreamInterceptor() grpc.StreamServerInterceptor { return s.calls.StreamInterceptor() }

// Services is the part of a [grpc.Server] that [Server.Check] needs.
type Services interface {
	GetServiceInfo() map[string]grpc.ServiceInfo
}

// Check returns what prevents [WithIdempotency] from storing the outcomes of the methods of the services,
// joined: the Go type of a response is not linked in, a service does not use protobuf, a stream requires
// a key, or an option names a method that does not exist. Call Check with a [grpc.Server] after all
// services are registered and before the server serves. For services that cannot store outcomes, use
// [idempotency.Off].
//
// Check logs a warning if nothing but the transport distinguishes callers; see [idempotency.Tenant] and
// [idempotency.SharedKeys].
//
// If a method does not pass Check, its calls with a key fail with INTERNAL and the reason
// KEY_UNSUPPORTED.
func (s *Server) Check(services Services) error { return s.calls.Check(services.GetServiceInfo()) }

// TransportIdentity returns the identity that the transport has verified for the caller of an incoming
// call: that of its certificate, its service account with ALTS, or what the method CallerIdentity() string
// of its peer's AuthInfo returns, with which adapters for other protocols identify callers. Without a verified
// identity, it returns the empty string. The identity of a certificate is the first of these that it contains: URIs,
// as in SPIFFE; a subject; host names and email addresses. Unlike addresses, these identities are the
// same for all instances of a service. See [idempotency.Tenant].
func TransportIdentity(ctx context.Context) string { return once.TransportIdentity(ctx) }
