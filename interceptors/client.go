package interceptors

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Client makes the outgoing calls of a process: it carries deadline, budget and
// key to the callee, repeats what may be repeated, and traces every attempt.
// Make one for a process and put it on all connections. It is safe for
// concurrent use.
type Client struct {
	clientSettings

	clock    *deadline.Clock
	begun    time.Time // what monotonic times count from
	declared declarations
	reserved []string // keys of metadata that attempts set themselves

	modes    modes
	observed *budget.Budget // in place of budget for calls that are only observed

	methods  cache[method]
	targets  *targets
	buffered atomic.Int64 // bytes that streams keep

	trace *tracing // nil if there is no provider
	count *clientCounters
	twice reportedOnce // that the interceptors are installed twice

	otherRetries reportedOnce // that another interceptor retries
	failedCalls  failedCalls
}

// NewClient returns a client. Without options it makes up to three attempts of
// calls that are safe to repeat if their server is unavailable, within the
// defaults of [budget.New]. It returns all that is wrong with the options, joined.
func NewClient(opts ...ClientOption) (*Client, error) {
	c := &Client{begun: time.Now(), clock: deadline.NewClock(rand.Uint64), targets: newTargets()}
	c.callBuffer, c.clientBuffer = defaultCallBuffer, defaultClientBuffer
	for i, opt := range opts {
		if isNil(opt) {
			c.errs = append(c.errs, nilOption(i))
			continue
		}
		opt.applyClient(&c.clientSettings)
	}
	if c.budget == nil {
		c.budget = budget.New()
	}
	if c.policy == nil {
		c.policy = MethodPolicies{}
	}
	c.observed = c.budget.Clone() // what would have been spent is not
	c.modes.table.Store(&modeTable{all: c.firstMode})
	var errs [3]error
	if c.trace = newTracing(&c.settings); c.trace != nil {
		c.trace.attemptKind = c.attemptKind
	}
	c.count, errs[0] = newClientCounters(&c.settings)
	c.declared, errs[1] = readDeclarations(protoregistry.GlobalFiles)
	errs[2] = c.observeBudget()
	if err := errors.Join(append(c.errs, errs[:]...)...); err != nil {
		return nil, err
	}
	c.reserved = []string{wire.ContextKey, previousAttemptsKey}
	if c.trace != nil {
		for _, field := range c.trace.propagators.Fields() {
			c.reserved = append(c.reserved, strings.ToLower(field))
		}
	}
	return c, nil
}

// DialOptions returns what to dial with: the interceptors, and gRPC's own
// retries turned off, which would multiply with those made here. A client that
// only observes leaves them on; see [Client.SetMode].
func (c *Client) DialOptions() []grpc.DialOption {
	native := c.modes.of("") == Observe
	opts := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(c.unaryInterceptor(native)),
		grpc.WithChainStreamInterceptor(c.streamInterceptor(native)),
	}
	if !native {
		opts = append(opts, grpc.WithDisableRetry())
	}
	return opts
}

// UnaryInterceptor returns the interceptor of unary calls, for chains that are
// put together by hand. Dial with [grpc.WithDisableRetry] beside it.
func (c *Client) UnaryInterceptor() grpc.UnaryClientInterceptor { return c.unaryInterceptor(false) }

// unaryInterceptor returns the interceptor for connections on which gRPC's own retries are
// on, if native is set.
func (c *Client) unaryInterceptor(native bool) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, fullMethod string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
		if c.installedTwice(ctx, fullMethod, cc) {
			return invoker(ctx, fullMethod, req, reply, cc, opts...)
		}
		k := &call{native: native}
		k.plan(ctx, c, fullMethod, cc, opts)
		err = errPanicked // unless it returns
		defer func() { k.end(err) }()
		if c.failedCalls.has(k.failedCall(req, reply)) {
			k.leaveRetries()
		}
		err = k.unary(req, reply, cc, invoker)
		c.failedCalls.ended(k.failedCall(req, reply), err)
		return err
	}
}

// unary makes a unary call.
func (k *call) unary(req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker) error {
	req, err := k.addKey(req)
	if err == nil {
		err = k.refuse()
	}
	if err != nil {
		return err
	}
	hedged := k.hedges() && isMessage(reply) // of which others can be made
	k.plainUnless(hedged)
	if hedged {
		return k.hedge(req, reply, cc, invoker)
	}
	before := replyBefore(reply)
	for again := true; again; {
		if k.attempts > 0 {
			clearReply(reply, before)
		}
		k.awaitConnection()
		err = k.invoke(req, reply, cc, invoker)
		again, err = k.again(k.last, err)
	}
	k.last.tell(k.observers)
	return err
}
