package interceptors

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"google.golang.org/grpc"
)

// Client makes the outgoing calls of a process: it carries deadline, budget and
// key to the callee, repeats what may be repeated, and traces every attempt.
// Make one for a process and put it on all connections. It is safe for
// concurrent use.
type Client struct {
	clientSettings

	clock *deadline.Clock
	begun time.Time // what monotonic times count from

	methods cache[method]
	targets cache[target]

	trace *tracing // nil if there is no provider
	count *counters
}

// NewClient returns a client. Without options it makes up to three attempts of
// calls that are safe to repeat if their server is unavailable, and earns an
// extra attempt for every five successful requests. It returns all that is
// wrong with the options, joined.
func NewClient(opts ...ClientOption) (*Client, error) {
	c := &Client{begun: time.Now(), clock: deadline.NewClock(rand.Uint64)}
	for _, opt := range opts {
		if opt != nil {
			opt.applyClient(&c.clientSettings)
		}
	}
	if c.budget == nil {
		c.budget = budget.New()
	}
	if c.policy == nil {
		c.policy = MethodPolicies{}
	}
	var err error
	c.trace = newTracing(&c.settings)
	c.count, err = newCounters(&c.settings)
	if err := errors.Join(append(c.errs, err)...); err != nil {
		return nil, err
	}
	return c, nil
}

// DialOptions returns what to dial with: the interceptor, and gRPC's own
// retries turned off, which would multiply with those made here. A client that
// only observes leaves them on.
func (c *Client) DialOptions() []grpc.DialOption {
	opts := []grpc.DialOption{grpc.WithChainUnaryInterceptor(c.UnaryInterceptor())}
	if c.mode == Enforce {
		opts = append(opts, grpc.WithDisableRetry())
	}
	return opts
}

// UnaryInterceptor returns the interceptor of unary calls, for chains that are
// put together by hand. Dial with [grpc.WithDisableRetry] beside it.
func (c *Client) UnaryInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, fullMethod string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
		k := c.plan(ctx, fullMethod, cc, opts)
		defer func() { k.end(err) }()
		if err = k.refuse(); err != nil {
			return err
		}
		for again := true; again; {
			err = k.attempt(req, reply, cc, invoker)
			again = k.decide(err)
			if again {
				again, err = k.pause(err)
			}
		}
		return err
	}
}
