package interceptors

import (
	"context"
	"errors"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/tried"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
)

// call is one call with all its attempts. One goroutine uses it at a time.
type call struct {
	*Client

	mode       Mode
	fullMethod string
	method     *method
	conn       *grpc.ClientConn
	target     *target
	budget     *budget.Budget
	policy     Policy
	key        idempotency.Key
	hasKey     bool
	childKey   bool // its key, or the one that it would have, is made of its caller's
	wouldKey   bool // it is only observed, and would have a key
	keyedAbove bool // it would have a key if all its callers enforced
	began      time.Time

	ctx       context.Context    // its own, from which each attempt's is derived
	release   context.CancelFunc // of ctx; nil if it is not its own
	opts      []grpc.CallOption  // what attempts are made with
	space     [4]grpc.CallOption // for opts, of which there are few
	observers []grpc.CallOption  // the user's that are told of the attempt that counts
	onFinish  func(error)        // of the user's OnFinish options; nil if there are none
	invalid   error              // what is wrong with the policy among the call options
	waits     bool               // it waits for a connection
	resolved  bool               // the service config of its connection is in its policy

	request   *request          // the incoming request that the call belongs to, if any
	allotment *budget.Allotment // its own if the call is a root
	root      budget.Allotment

	streaming bool
	native    bool // gRPC's own retries are on
	buffer    int  // bytes of a stream that are kept to be sent again
	tried     tried.Backends
	attempts  int
	first     attempt
	last      *attempt // the attempt under way or the last one, where there is one at a time
	ended     time.Time

	seen      bool          // a server may have seen an attempt
	paid      bool          // the coming attempt is charged already
	charged   charge        // as what, if it is
	paused    time.Duration // the last pause
	idle      time.Duration // all pauses together
	backedOff time.Duration // the last that was a backoff, since the last pushback
	pauses    int           // backoffs since the last pushback
	decision  decision
	reason    string // for the decision, if it does not tell enough
	wanting   bool   // only a token was missing
	ranOut    bool   // its time was over, rather than too short for another attempt
	abandoned bool   // it ended while another attempt was to be made

	span  trace.Span // nil if it is not recorded
	maker spanMaker
}

// plan gathers what a call goes by: its method's policy, the allotment that it
// draws on, and its deadline.
func (k *call) plan(ctx context.Context, c *Client, fullMethod string, cc *grpc.ClientConn, opts []grpc.CallOption) {
	k.Client = c
	k.mode, k.fullMethod = c.modes.of(fullMethod), fullMethod
	if k.budget = c.budget; k.mode == Observe {
		k.budget = c.observed
	}
	k.method = c.methods.get(fullMethod, c.newMethod)
	k.conn, k.target = cc, c.targetOf(cc)
	k.last = &k.first
	k.began = time.Now()
	k.ended = k.began // as it is if no attempt is made
	k.key, k.hasKey = idempotency.ForCall(ctx, fullMethod, false)
	own := k.takeOver(opts)
	channel := k.channelPolicy()
	k.resolved = channel != nil
	k.policy = c.policyOf(k.method, own, channel)
	k.leaveToGRPC(channel)
	k.request = requestFromContext(ctx)
	k.allotment = k.allotmentOf(ctx)
	k.allotment.StartCall(k.budget)
	if c.count != nil && !inRequest(ctx) {
		c.count.rootCall(ctx, k.series())
	}
	ctx = k.startCall(k.withoutReserved(ctx))
	if d, ok := ctx.Deadline(); k.mode == Enforce && k.policy.Timeout > 0 && (!ok || d.Sub(k.began) > k.policy.Timeout) {
		ctx, k.release = context.WithDeadline(ctx, k.began.Add(k.policy.Timeout))
	}
	k.ctx = ctx
	k.waits = k.policy.WaitForReady
	for _, o := range k.opts {
		if o, ok := o.(grpc.FailFastCallOption); ok {
			k.waits = !o.FailFast
		}
	}
	if k.policy.WaitForReady && k.mode == Enforce {
		k.opts = append([]grpc.CallOption{grpc.WaitForReady(true)}, k.opts...) // before the user's, which may say otherwise
	}
}

// allotmentOf returns what a call made with ctx draws on: the allotment of the
// request it belongs to or, outside of any that is still running, its own.
func (k *call) allotmentOf(ctx context.Context) *budget.Allotment {
	if !inRequest(ctx) || k.mode == Observe {
		return &k.root
	}
	a, _ := budget.FromContext(ctx)
	return a
}

// inRequest reports whether ctx belongs to a request that is still running.
func inRequest(ctx context.Context) bool {
	a, ok := budget.FromContext(ctx)
	return ok && !a.Closed()
}

// withoutReserved drops from the outgoing metadata what attempts set themselves.
// A service that passes incoming metadata on would send it twice, and gRPC does
// not replace.
func (k *call) withoutReserved(ctx context.Context) context.Context {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		return ctx
	}
	before := len(md)
	for _, key := range k.reserved {
		delete(md, key)
	}
	if k.hasKey || idempotency.IsForwarded(ctx, md[idempotency.Header]) {
		delete(md, idempotency.Header)
	}
	if len(md) == before {
		return ctx
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// takeOver sorts the user's call options. Those of this package are obeyed, and
// the policy among them returned. Those that tell of a call, or run when it
// finishes, are kept for the end, because each attempt is a call to gRPC.
func (k *call) takeOver(opts []grpc.CallOption) (own *Policy) {
	k.opts, k.buffer = k.space[:0], k.callBuffer
	for i, o := range opts {
		switch o := o.(type) {
		case policyCallOption:
			merged := resolve(&o.policy, own) // the later one weighs more
			own = &merged
			k.invalid = errors.Join(k.invalid, o.err)
		case keyCallOption:
			k.key, k.hasKey = o.key, true
		case grpc.OnFinishCallOption:
			earlier := k.onFinish
			k.onFinish = func(err error) {
				if earlier != nil {
					earlier(err)
				}
				o.OnFinish(err)
			}
		case grpc.HeaderCallOption, grpc.TrailerCallOption, grpc.PeerCallOption:
			k.observers = append(k.observers, o)
		case grpc.MaxRetryRPCBufferSizeCallOption:
			k.buffer = o.MaxRetryRPCBufferSize
			k.opts = append(k.opts, o)
		case grpc.StaticMethodCallOption: // generated code says that it made the call (gRFC A66)
			k.method.register()
			k.opts = append(k.opts, opts[i])
		default:
			k.opts = append(k.opts, o)
		}
	}
	return own
}

// refuse returns an error if the call need not be sent: its key is none, its
// time is over, or what remains is less than what the way to the target and
// back takes.
func (k *call) refuse() error {
	if k.invalid != nil && k.mode == Enforce {
		k.refused(ReasonPolicyInvalid)
		k.decision = notRetryable
		return newError(codes.InvalidArgument, ReasonPolicyInvalid, k.invalid.Error())
	}
	if k.hasKey {
		if err := k.key.Validate(); err != nil {
			refusal := k.invalidKey(err)
			if k.mode == Enforce {
				return refusal
			}
			k.hasKey = false // gRPC would not send it
		}
	}
	remaining, ok := k.remaining(k.began)
	if !ok || errors.Is(k.ctx.Err(), context.Canceled) {
		return nil // gRPC has the error for a call that was cancelled
	}
	var reason, message string
	switch {
	case remaining <= 0:
		reason, message = ReasonDeadlineExpired, "the deadline had passed before the call was made"
	case k.target.transit.Refuse(k.mono(k.began), remaining):
		reason, message = ReasonDeadlineUnreachable, "what remains of the deadline is less than the way to the server and back takes"
	default:
		return nil
	}
	k.refused(reason)
	if k.mode == Observe {
		return nil
	}
	k.decision = outOfTime
	return newError(codes.DeadlineExceeded, reason, message)
}

// remaining returns what is left of the call's deadline.
func (k *call) remaining(now time.Time) (time.Duration, bool) {
	d, ok := k.ctx.Deadline()
	return d.Sub(now), ok
}

// awaitConnection waits until the connection is ready, if the call waits for that
// anyway and its attempts have a timeout: the wait is not to use up an attempt.
func (k *call) awaitConnection() {
	if !k.waits || k.policy.AttemptTimeout == 0 || k.conn == nil || k.mode == Observe {
		return
	}
	for s := k.conn.GetState(); s != connectivity.Ready && s != connectivity.Shutdown; s = k.conn.GetState() {
		if s == connectivity.Idle {
			k.conn.Connect()
		}
		if !k.conn.WaitForStateChange(k.ctx, s) {
			return // gRPC has the error for a call that is cancelled or late
		}
	}
}

// mono returns a time on the monotonic clock of this client.
func (c *Client) mono(t time.Time) time.Duration { return t.Sub(c.begun) }

// safe reports whether the call may be repeated though a server may have seen
// it.
func (k *call) safe() bool { return k.policy.safe(k.method.level, k.strict) || k.safeByKey() }

// safeByKey reports whether the call may be repeated because of its key. A key that the
// application or its policy has chosen is a declaration. A child key is there because a
// caller, perhaps from outside, has sent one: it counts if the method declares keys, or if the
// callee has said that it stores outcomes. See ADR 0018.
func (k *call) safeByKey() bool {
	switch {
	case !k.wouldKey && k.sentKey() == "":
		return false
	case !k.childKey, k.policy.KeyRequired, k.policy.KeyField != "", k.method.declared.declaresKeys():
		return true
	default:
		return k.target.keepsOutcomes(k.fullMethod).Load()
	}
}

// heldBack returns what the sender keeps of the remaining time for the reply
// to come back.
func (k *call) heldBack(now time.Time, remaining time.Duration) time.Duration {
	if k.mode == Observe {
		return 0
	}
	reserve, ok := deadline.ReserveFromContext(k.ctx)
	switch {
	case ok:
	case k.hasReserve:
		reserve = k.fixedReserve
	default:
		reserve = k.target.reserve.Get(k.mono(now))
	}
	return deadline.ClampReserve(reserve, remaining)
}

// outOfRequestTime reports whether the time that the call ran out of was that of
// the request it belongs to, rather than one of its own.
func (k *call) outOfRequestTime() bool {
	if k.request.Err() != nil {
		return true
	}
	whole, bounded := k.request.Deadline()
	own, _ := k.ctx.Deadline()
	return k.ranOut && bounded && whole.Sub(own) <= derived
}

// end ends the call, and records a failure with the request that the call belongs
// to.
func (k *call) end(err error) {
	panicked := k.last.n > 0 && !k.last.settled
	if panicked {
		k.endPanicked(k.last)
	}
	if k.paid && k.mode == Enforce {
		k.paid = false
		k.refund(k.ended, k.charged)
	}
	k.allotment.EndCall()
	if k.allotment == &k.root {
		k.root.Close()
	}
	if err != nil && k.request != nil && k.mode == Enforce {
		why := k.decision
		if k.abandoned || panicked { // what might have been repeated was not
			why = outOfTime
		}
		k.request.downstream.failed(codeOf(err), why, k.wanting, k.outOfRequestTime())
	}
	k.endCall(err)
	if k.release != nil {
		k.release()
	}
	if k.onFinish != nil {
		k.onFinish(err)
	}
}
