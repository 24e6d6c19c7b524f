package outbound

import (
	"context"
	"errors"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/request"
	"github.com/hopbound/hopbound/internal/telemetry"
	"github.com/hopbound/hopbound/internal/tried"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
)

// minTimerGain is by how much a deadline must be earlier than another to count as earlier.
const minTimerGain = time.Millisecond

// Call is one outgoing call with all its attempts. One goroutine uses it at a time. Set Streaming
// and Native before Start; Start sets the rest.
type Call struct {
	Streaming bool
	Native    bool // gRPC's own retries are on

	FullMethod string
	Context    context.Context    //nolint:containedctx // of the call, from which the context of each attempt is derived
	Release    context.CancelFunc // of Context; nil if it is not the call's own
	Options    []grpc.CallOption  // of each attempt
	OnFinish   func(error)        // the user's; nil if there is none
	Observe    bool               // decisions are recorded, and not carried out
	Buffer     int                // bytes of a stream that are kept for retries
	Decision   telemetry.Decision // about the last attempt
	Reason     string             // of the decision; empty if it says enough

	client  *Client
	method  *method
	conn    *grpc.ClientConn
	target  *target
	budget  *budget.Budget
	policy  policy.Policy
	started time.Time

	key        idempotency.Key
	hasKey     bool
	childKey   bool // the key, or the key that the call would have, is derived from the caller's
	wouldKey   bool // the call is only observed, and would have a key
	keyedAbove bool // the call would have a key if all callers of its request enforced

	optionSpace [4]grpc.CallOption // for Options, of which there are few
	observers   []grpc.CallOption  // the user's options that receive header, trailer and peer
	invalid     error              // in the policy among the call options
	waits       bool               // the call waits for a connection
	resolved    bool               // the policy includes the service config of the connection

	request   *request.Request  // that the call belongs to; nil if there is none
	allotment *budget.Allotment // the request's, or root
	root      budget.Allotment

	tried    tried.Backends
	attempts int
	first    Attempt
	last     *Attempt // the attempt under way or the last one, if attempts are made one at a time
	ended    time.Time

	seen      bool          // a server may have seen an attempt
	reached   *bool         // where the user wants to know that; may be nil
	paid      bool          // the next attempt is paid for
	charge    charge        // what it was paid with
	pause     time.Duration // the last pause
	paused    time.Duration // all pauses together
	backoff   time.Duration // the last pause that was a backoff, since the last pushback
	backoffs  int           // since the last pushback
	noTokens  bool          // only tokens were missing for a retry
	ranOut    bool          // the call's time was over, rather than too short for another attempt
	abandoned bool          // the call ended while another attempt was to be made

	telemetry telemetry.Call
}

// Start collects what the call depends on: the policy of its method, the tokens that it may spend,
// and its deadline.
func (c *Call) Start(ctx context.Context, client *Client, fullMethod string, cc *grpc.ClientConn, opts []grpc.CallOption) {
	c.client, c.FullMethod = client, fullMethod
	c.Observe = client.Modes.Observes(fullMethod)
	if c.budget = client.config.Budget; c.Observe {
		c.budget = client.observed
	}
	c.method = client.methods.Get(fullMethod, client.newMethod)
	c.conn, c.target = cc, client.targetOf(cc)
	c.last = &c.first
	c.started = time.Now()
	c.ended = c.started // unless an attempt is made
	c.key, c.hasKey = idempotency.ForCall(ctx, fullMethod, false)
	own := c.takeOptions(opts)
	channel := c.channelPolicy()
	c.resolved = channel != nil
	c.policy = client.policyOf(c.method, own, channel)
	c.leaveToGRPC(ctx, channel)
	c.request = request.FromContext(ctx)
	root := !inRequest(ctx)
	if c.allotment = &c.root; !root && !c.Observe {
		c.allotment, _ = budget.FromContext(ctx)
	}
	c.allotment.StartCall(c.budget)
	ctx = client.telemetry.Start(c.withoutReserved(ctx), &c.telemetry, c.method.telemetry, c.target.telemetry, cc, c.Observe)
	if root {
		c.telemetry.Root()
	}
	if d, ok := ctx.Deadline(); !c.Observe && c.policy.Timeout > 0 && (!ok || d.Sub(c.started) > c.policy.Timeout) {
		ctx, c.Release = context.WithDeadline(ctx, c.started.Add(c.policy.Timeout))
	}
	c.Context = ctx
	c.applyWaitForReady()
}

// inRequest reports whether ctx belongs to a request that has not ended.
func inRequest(ctx context.Context) bool {
	a, ok := budget.FromContext(ctx)
	return ok && !a.Closed()
}

// withoutReserved removes the keys that attempts set themselves from the outgoing metadata. A
// service that forwards incoming metadata would otherwise send two values under these keys, because
// gRPC adds values and does not replace them.
func (c *Call) withoutReserved(ctx context.Context) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		return ctx
	}
	before := len(md)
	for _, key := range c.client.reserved {
		delete(md, key)
	}
	if c.hasKey || idempotency.IsForwarded(ctx, md[idempotency.Header]) {
		delete(md, idempotency.Header)
	}
	if len(md) == before {
		return ctx
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// refreshPolicy applies a service config of the connection that has arrived since the call started.
// When the first attempt has ended, the name of the target is resolved.
func (c *Call) refreshPolicy() {
	if c.resolved || c.attempts > 1 {
		return
	}
	if channel := c.channelPolicy(); channel != nil {
		c.resolved = true
		if c.policy.Retry == nil && c.policy.Hedge == nil {
			c.policy.Retry = channel.Retry
		}
		c.leaveToGRPC(c.Context, channel)
	}
}

// leaveToGRPC limits a call that gRPC itself retries to a single attempt. gRPC retries calls on a
// connection that was dialled while the client observed.
func (c *Call) leaveToGRPC(ctx context.Context, channel *policy.Policy) {
	if channel != nil && channel.Retry != nil && !c.Observe && c.Native {
		c.policy.Retry, c.policy.Hedge = &policy.Retry{MaxAttempts: 1, Codes: channel.Retry.Codes}, nil
		c.client.telemetry.GRPCRetries(ctx, c.method.telemetry)
	}
}

// Reject returns an error if the call must not be sent: its options or its key are invalid, its
// deadline has passed, or less time is left than a request and its reply are on their way.
func (c *Call) Reject() error {
	if c.invalid != nil && !c.Observe {
		return c.rejectInvalid(hoperr.PolicyInvalid, c.invalid)
	}
	if c.hasKey {
		if err := c.key.Validate(); err != nil {
			rejection := c.rejectInvalid(hoperr.KeyInvalid, err)
			if !c.Observe {
				return rejection
			}
			c.hasKey = false // gRPC would not send it
		}
	}
	remaining, ok := c.remaining(c.started)
	if !ok || errors.Is(c.Context.Err(), context.Canceled) {
		return nil // gRPC returns the error of a call that is cancelled
	}
	var reason, message string
	switch {
	case remaining <= 0:
		reason, message = hoperr.DeadlineExpired, "the deadline had passed before the call was made"
	case c.target.transit.Refuse(c.client.mono(c.started), remaining):
		reason, message = hoperr.DeadlineUnreachable, "the deadline leaves less time than the way to the server and back takes"
	default:
		return nil
	}
	c.rejected(reason)
	if c.Observe {
		return nil
	}
	c.Decision = telemetry.Deadline
	return hoperr.New(codes.DeadlineExceeded, reason, message)
}

// rejectInvalid returns the error of a call that is invalid.
func (c *Call) rejectInvalid(reason string, err error) error {
	c.rejected(reason)
	c.Decision = telemetry.NotRetryable
	return hoperr.New(codes.InvalidArgument, reason, err.Error())
}

func (c *Call) rejected(reason string) {
	if !c.Observe {
		c.Reason = reason
	}
	c.telemetry.Rejected(reason)
}

// remaining returns the time until the call's deadline.
func (c *Call) remaining(now time.Time) (time.Duration, bool) {
	d, ok := c.Context.Deadline()
	return d.Sub(now), ok
}

// awaitConnection waits until the connection is ready, if the call waits for it anyway and its
// attempts have a timeout, so that the wait does not use up an attempt.
func (c *Call) awaitConnection() {
	if !c.waits || c.policy.AttemptTimeout == 0 || c.conn == nil || c.Observe {
		return
	}
	for s := c.conn.GetState(); s != connectivity.Ready && s != connectivity.Shutdown; s = c.conn.GetState() {
		if s == connectivity.Idle {
			c.conn.Connect()
		}
		if !c.conn.WaitForStateChange(c.Context, s) {
			return // gRPC returns the error of a call that is cancelled or late
		}
	}
}

// reserve returns the part of the remaining time that is kept in reserve for the reply's way back.
func (c *Call) reserve(now time.Time, remaining time.Duration) time.Duration {
	if c.Observe {
		return 0
	}
	reserve, ok := deadline.ReserveFromContext(c.Context)
	switch {
	case ok:
	case c.client.config.FixedReserve:
		reserve = c.client.config.Reserve
	default:
		reserve = c.target.reserve.Get(c.client.mono(now))
	}
	return deadline.ClampReserve(reserve, remaining)
}

// transit returns the shortest time that a request to the target and its reply were on their way
// recently, or 0 if that is unknown.
func (c *Call) transit(now time.Time) time.Duration { return c.target.reserve.Get(c.client.mono(now)) }

// End ends the call, and records a failure with the request that the call belongs to.
func (c *Call) End(err error) {
	panicked := c.last.record.Number > 0 && !c.last.settled
	if panicked {
		c.EndPanicked(c.last)
	}
	if c.paid && !c.Observe {
		c.paid = false
		c.refund(c.ended, c.charge)
	}
	c.allotment.EndCall()
	if c.allotment == &c.root {
		c.root.Close()
	}
	if err != nil && c.request != nil && !c.Observe {
		c.request.Downstream.Failed(hoperr.Code(err), c.cause(panicked))
	}
	end := telemetry.CallEnd{
		Err: err, Attempts: c.attempts, Decision: c.Decision, Reason: c.Reason, Hedged: c.policy.Hedge != nil, Paused: c.paused,
		Took: c.ended.Sub(c.started),
	}
	if key := c.sentKey(); key != "" && c.telemetry.Recorded() {
		end.KeyHash = key.Hash()
	}
	c.telemetry.End(&end)
	if c.reached != nil {
		*c.reached = c.seen
	}
	if c.Release != nil {
		c.Release()
	}
	if c.OnFinish != nil {
		c.OnFinish(err)
	}
}

// cause returns why the failed call was not retried.
func (c *Call) cause(panicked bool) request.Cause {
	switch lateOrLost := c.Decision == telemetry.Deadline || c.abandoned || panicked; {
	case lateOrLost && c.outOfRequestTime():
		return request.RequestEnded
	case !lateOrLost && c.Decision == telemetry.NotRetryable && c.Reason != telemetry.ReasonRefused:
		return request.NotRetryable
	case c.noTokens:
		return request.NoTokens
	default:
		return request.GaveUp
	}
}

// outOfRequestTime reports whether the call ran out of the time of the request that it belongs to,
// rather than of a shorter time of its own.
func (c *Call) outOfRequestTime() bool {
	if c.request.Err() != nil {
		return true
	}
	whole, bounded := c.request.Deadline()
	own, _ := c.Context.Deadline()
	return c.ranOut && bounded && whole.Sub(own) <= minTimerGain
}
