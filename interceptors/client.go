package interceptors

import (
	"errors"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/internal/outbound"
	"github.com/hopbound/hopbound/internal/outbound/stream"
	"github.com/hopbound/hopbound/internal/policy"
	"google.golang.org/grpc"
)

// Client makes the outgoing calls of a process. It sends the deadline, the tokens and the idempotency key
// to the callee, retries what is safe to repeat, and traces every attempt. Make one client for a process
// and install it on all connections. It is safe for concurrent use.
type Client struct {
	calls   *outbound.Client
	streams *stream.Client

	// What Check looks at.
	policies Policies
	config   policy.ServiceConfig
	budget   *budget.Budget
}

// NewClient returns a client. Without options, it makes up to three attempts of calls that are safe to
// repeat if their server is unavailable, within the defaults of [budget.New]. If options are invalid, it
// returns all errors, joined.
func NewClient(opts ...ClientOption) (*Client, error) {
	s := clientSettings{callBuffer: defaultCallBuffer, clientBuffer: defaultClientBuffer, policies: MethodPolicies{}}
	for i, opt := range opts {
		if isNil(opt) {
			s.errs = append(s.errs, nilOption(i))
			continue
		}
		opt.applyClient(&s)
	}
	if s.budget == nil {
		s.budget = budget.New()
	}
	calls, err := outbound.New(outbound.Config{
		Telemetry:     s.telemetry,
		AttemptKind:   s.attemptKind,
		FoldAttempts:  s.foldAttempts,
		Observe:       s.mode == Observe,
		Budget:        s.budget,
		Policies:      source(s.policies),
		ServiceConfig: s.config,
		CallBuffer:    s.callBuffer,
		Reserve:       s.reserve,
		FixedReserve:  s.fixedReserve,
		Strict:        s.strict,
	})
	if err := errors.Join(append(s.errs, err)...); err != nil {
		return nil, err
	}
	return &Client{
		calls: calls, streams: &stream.Client{Client: calls, Buffer: s.clientBuffer},
		policies: s.policies, config: s.config, budget: s.budget,
	}, nil
}

// DialOptions returns the options to dial with: the interceptors, and [grpc.WithDisableRetry], because
// gRPC's own retries would multiply with Hopbound's. If the client is in mode Observe, DialOptions leaves
// gRPC's retries on; see [Client.SetMode].
func (c *Client) DialOptions() []grpc.DialOption {
	native := c.calls.Modes.Observes("")
	opts := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(c.calls.UnaryInterceptor(native)),
		grpc.WithChainStreamInterceptor(c.streams.Interceptor(native)),
	}
	if !native {
		opts = append(opts, grpc.WithDisableRetry())
	}
	return opts
}

// UnaryInterceptor returns the interceptor of unary calls, for chains that are composed by hand. Dial
// with [grpc.WithDisableRetry] as well.
func (c *Client) UnaryInterceptor() grpc.UnaryClientInterceptor {
	return c.calls.UnaryInterceptor(false)
}

// StreamInterceptor returns the interceptor of streaming calls, for chains that are composed by hand.
// Dial with [grpc.WithDisableRetry] as well.
func (c *Client) StreamInterceptor() grpc.StreamClientInterceptor {
	return c.streams.Interceptor(false)
}
