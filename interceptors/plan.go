package interceptors

import (
	"context"
	"errors"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/wire"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// call is one unary call with all its attempts. One goroutine uses it.
type call struct {
	*Client

	fullMethod string
	method     *method
	target     *target
	policy     Policy
	key        idempotency.Key
	hasKey     bool

	ctx    context.Context // its own, from which each attempt's is derived
	cancel context.CancelFunc
	opts   []grpc.CallOption
	space  [4]grpc.CallOption // for opts, of which there are few
	finish func(error)        // of the user's OnFinish options; nil if there are none

	request   *request          // the incoming request that the call belongs to, if any
	allotment *budget.Allotment // its own if the call is a root
	root      budget.Allotment

	// Of the attempt under way, or the last one.
	n        int // from 1
	began    time.Time
	ended    time.Time
	timeout  time.Duration // of its own, or 0
	paid     bool          // it was charged before it was made
	lease    budget.Lease
	reserve  time.Duration
	peer     peer.Peer
	trailer  metadata.MD
	report   wire.Report
	reported bool // the trailer has a report

	seen     bool          // a server may have seen an attempt
	paused   time.Duration // the last pause
	pauses   int           // since the last pushback
	decision decision
	wanting  bool // only a token was missing

	span        trace.Span // of the call; nil if it is not recorded
	attemptSpan trace.Span
}

// plan gathers what a call goes by: its method's policy, the allotment that it
// draws on, and its deadline.
func (c *Client) plan(ctx context.Context, fullMethod string, cc *grpc.ClientConn, opts []grpc.CallOption) *call {
	k := &call{
		Client:     c,
		fullMethod: fullMethod,
		method:     c.methods.get(fullMethod, newMethod),
		target:     c.target(cc),
		policy:     c.policy.ForMethod(fullMethod),
		began:      time.Now(),
	}
	k.ended = k.began // as it is if no attempt is made
	k.key, k.hasKey = idempotency.FromContext(ctx)
	k.request = requestFromContext(ctx)
	k.allotment = c.allotment(ctx, &k.root)
	ctx = k.startCall(ctx)
	if d, ok := ctx.Deadline(); k.mode == Enforce && k.policy.Timeout > 0 && (!ok || d.Sub(k.began) > k.policy.Timeout) {
		ctx, k.cancel = context.WithDeadline(ctx, k.began.Add(k.policy.Timeout))
	}
	k.ctx = ctx
	k.takeOver(opts)
	return k
}

// allotment returns what the calls made with ctx draw on: the allotment of the
// request they belong to or, outside of any that is still running, root.
func (c *Client) allotment(ctx context.Context, root *budget.Allotment) *budget.Allotment {
	a, ok := budget.FromContext(ctx)
	if !ok || a.Closed() {
		a = root
	}
	a.Fund(c.budget)
	return a
}

// takeOver adds the call options that attempts are observed by. Of the user's,
// those that run when a call finishes are kept for the end, because each
// attempt is a call to gRPC.
func (k *call) takeOver(opts []grpc.CallOption) {
	k.opts = k.space[:0]
	for _, o := range opts {
		if f, ok := o.(grpc.OnFinishCallOption); ok {
			earlier := k.finish
			k.finish = func(err error) {
				if earlier != nil {
					earlier(err)
				}
				f.OnFinish(err)
			}
			continue
		}
		k.opts = append(k.opts, o)
	}
	k.opts = append(k.opts, grpc.Trailer(&k.trailer), grpc.Peer(&k.peer))
}

// refuse returns an error if the call need not be sent: its key is none, its
// time is over, or what remains is less than what the way to the target and
// back takes.
func (k *call) refuse() error {
	if k.hasKey {
		if err := k.key.Validate(); err != nil {
			k.decision = notRetryable
			return newError(codes.InvalidArgument, ReasonKeyInvalid, err.Error())
		}
	}
	remaining, ok := k.remaining()
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
	k.count.refusal(k.ctx, k.method, reason, k.mode)
	if k.mode == Observe {
		k.event("hopbound.refusal", attrReason.String(reason))
		return nil
	}
	k.decision = outOfTime
	return newError(codes.DeadlineExceeded, reason, message)
}

// remaining returns what was left of the call's deadline when the attempt
// began.
func (k *call) remaining() (time.Duration, bool) {
	d, ok := k.ctx.Deadline()
	return d.Sub(k.began), ok
}

// mono returns a time on the monotonic clock of this client.
func (c *Client) mono(t time.Time) time.Duration { return t.Sub(c.begun) }

// safe reports whether the call may be repeated though a server may have seen
// it.
func (k *call) safe() bool {
	if k.hasKey || k.policy.safe(k.method.level, k.strict) {
		return true
	}
	md, ok := metadata.FromOutgoingContext(k.ctx) // a key that was put on by hand
	return ok && len(md[idempotency.Header]) == 1 && idempotency.Key(md[idempotency.Header][0]).Validate() == nil
}

// heldBack returns what the sender keeps of the remaining time for the reply
// to come back.
func (k *call) heldBack(remaining time.Duration) time.Duration {
	if k.mode == Observe {
		return 0
	}
	reserve, ok := deadline.ReserveFromContext(k.ctx)
	switch {
	case ok:
	case k.hasReserve:
		reserve = k.fixedReserve
	default:
		reserve = k.target.reserve.Get(k.mono(k.began))
	}
	return deadline.Held(reserve, remaining)
}
