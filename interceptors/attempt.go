package interceptors

import (
	"context"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/tried"
	"github.com/hopbound/hopbound/internal/wire"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// attempt is one attempt of a call: what it set out with, and what came back.
type attempt struct {
	self    attemptContext
	n       int // from 1
	began   time.Time
	timeout time.Duration // of its own, or 0
	expired bool          // that has ended it; known of streams, whose context does not tell
	paid    bool          // it was charged before it was made
	charge  charge        // as what, if it was
	ready   bool          // its connection was ready
	loan    budget.Loan
	reserve time.Duration

	allowed time.Duration // until the deadline that the callee is told, or 0

	header       metadata.MD
	peer         peer.Peer
	trailer      metadata.MD
	making       atomic.Bool   // it is being handed to gRPC
	opened       bool          // it is a stream that could be opened
	finished     atomic.Bool   // gRPC has said so; if not, it may never have been asked
	lastBelow    atomic.Uint32 // the code of the last call that gRPC has finished for it, as a bit
	earlierBelow atomic.Uint32 // and those of earlier ones
	settled      bool
	heard        bool // finished when it was settled: what gRPC fills in is there
	unsent       bool // there was no backend to send it to, so that it costs nothing
	served       bool // it is a stream that had answered when the application ended it
	ended        time.Time
	report       wire.Report
	reported     bool // the trailer has a report
	garbled      bool // or something else in its place
	reports      int  // how many tokens the reply reports as used

	hedge string // "won" or "lost" if there were others at the same time
	span  trace.Span
}

// begin starts an attempt, which hedges may follow while it is under way: it lends
// tokens to the callee, and returns the context to make the attempt with, which
// carries the deadline. If the context is one of the attempt's own, cancel
// releases it.
func (k *call) begin(a *attempt, hedges int) (ctx context.Context, cancel context.CancelFunc) {
	k.attempts++
	a.self = attemptContext{Context: k.ctx, call: k, attempt: a} // whatever panics below
	a.n, a.paid, a.charge = k.attempts, k.paid, k.charged
	k.paid = false
	a.began = k.began
	if a.n > 1 {
		a.began = time.Now()
	}
	a.loan = k.allotment.Lend(hedges)
	a.ready = k.ready()
	ctx = k.ctx
	if a.timeout = k.attemptTimeout(a); a.timeout > 0 && !k.streaming {
		ctx, cancel = context.WithDeadline(ctx, a.began.Add(a.timeout))
	}
	header := k.header(ctx, a)
	ctx = k.startAttempt(ctx, a)
	a.self.Context = k.outgoing(ctx, a, header) //nolint:fatcontext // each attempt's is of its own
	return &a.self, cancel
}

// attemptContext is the context of an attempt, by which logs know it. It is part
// of the attempt, so that it costs no allocation.
type attemptContext struct {
	context.Context
	call    *call
	attempt *attempt
}

type attemptKey struct{}

// Value returns the context under its own key, and the backends that the call has
// tried under theirs.
func (c *attemptContext) Value(key any) any {
	switch key.(type) {
	case attemptKey:
		return c
	case tried.Key:
		return &c.call.tried
	}
	return c.Context.Value(key)
}

// invoke makes one attempt of a unary call, and settles by what comes back.
func (k *call) invoke(req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker) error {
	opts := k.opts
	if k.attempts > 0 { // somebody may still hold what was the last attempt's
		k.last, opts = &attempt{}, slices.Clip(opts)
	}
	a := k.last
	opts = k.observed(a, opts, a.finish)
	ctx, cancel := k.begin(a, 0)
	if cancel != nil {
		defer cancel()
	}
	a.making.Store(true)
	err := invoker(ctx, k.fullMethod, req, reply, cc, opts...)
	a.making.Store(false)
	k.settle(a, err)
	if k.policy.AttemptTimeout == AttemptTimeoutShared {
		k.learnShared(a, err)
	}
	return err
}

// learnShared takes in how long an attempt took that had a share of the call's time
// or might have had one. How long an attempt would have taken that was cut short is
// not known. It counts as a little longer than its timeout.
func (k *call) learnShared(a *attempt, err error) {
	switch took := a.ended.Sub(a.began); {
	case err == nil:
		k.latency().add(a.ended, took)
	case a.timeout > 0 && a.ranOut(err):
		k.latency().add(a.ended, a.timeout+a.timeout/100)
	}
}

// observed adds to call options those that an attempt is observed by. The header
// is for the user alone, and gRPC copies it, so that it is left if nobody asks.
func (k *call) observed(a *attempt, opts []grpc.CallOption, onFinish func(error)) []grpc.CallOption {
	if len(k.observers) > 0 {
		opts = append(opts, grpc.Header(&a.header))
	}
	return append(opts, grpc.Trailer(&a.trailer), grpc.Peer(&a.peer), grpc.OnFinish(onFinish))
}

// tell passes on what was observed of the attempt that counts.
func (a *attempt) tell(observers []grpc.CallOption) {
	if !a.heard {
		return
	}
	for _, o := range observers {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = a.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = a.trailer
		case grpc.PeerCallOption:
			*o.PeerAddr = a.peer
		}
	}
}

// attemptTimeout returns the attempt's own timeout, or 0 if it has as much time
// as the call.
func (k *call) attemptTimeout(a *attempt) time.Duration {
	remaining, ok := k.remaining(a.began)
	timeout := k.policy.AttemptTimeout
	if k.mode == Observe {
		return 0
	}
	if timeout == AttemptTimeoutShared {
		timeout = 0
		if more := k.mayFollow(a); ok && more > 0 {
			backoff := k.policy.backoff()
			share := remaining
			for i := range more {
				share -= backoff.bound(k.pauses + 1 + i)
			}
			timeout = max(share, remaining/2) / time.Duration(more+1)
			if usual, known := k.latency().p95(a.began); known {
				timeout = max(timeout, 2*usual)
			}
		}
	}
	if timeout <= 0 || ok && timeout >= remaining {
		return 0
	}
	return timeout
}

// mayFollow returns how many attempts may follow one, as far as is known when
// it begins.
func (k *call) mayFollow(a *attempt) int {
	if !k.safe() {
		return 0
	}
	affordable := k.budget.Affords(a.began, k.target.name, k.timeoutCause())
	return max(0, min(k.policy.attempts()-a.n, a.loan.Tokens()+k.allotment.Free(), affordable))
}

// header returns what an attempt carries to its callee.
func (k *call) header(ctx context.Context, a *attempt) wire.Context {
	sent, id := k.clock.Read(a.began, k.mono(a.began))
	h := wire.Context{Sent: sent, ClockID: id, HasSent: sent >= 0, Attempt: a.n}
	if k.mode == Enforce {
		h.Budget, h.HasBudget = a.loan.Tokens(), true
	}
	h.Keyed = (k.wouldKey || k.keyedAbove) && k.sentKey() == "" || k.forwardsKey()
	if d, ok := ctx.Deadline(); ok {
		remaining := d.Sub(a.began)
		a.reserve = k.heldBack(a.began, remaining)
		a.allowed = remaining - a.reserve
		h.Deadline, h.HasDeadline = sent+(remaining-a.reserve).Microseconds(), true
	}
	return h
}

// outgoing returns the context of an attempt with its metadata.
func (k *call) outgoing(ctx context.Context, a *attempt, h wire.Context) context.Context {
	var buf [wire.MaxLen]byte
	kv := append(append(make([]string, 0, 10), k.trace.context(ctx, k.maker)...), wire.ContextKey, string(h.Append(buf[:0])))
	if a.n > 1 {
		kv = append(kv, previousAttemptsKey, strconv.Itoa(a.n-1))
	}
	if k.hasKey {
		kv = append(kv, idempotency.Header, string(k.key))
	}
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// settle ends an attempt's loan by what came back, and learns from it. Only
// the first time counts.
func (k *call) settle(a *attempt, err error) {
	if a.settled {
		return
	}
	a.settled = true
	now := time.Now()
	k.ended, a.ended = now, now
	a.heard = a.finished.Load()
	k.readReport(a)
	reached := err == nil || a.reached()
	a.unsent = !reached && (!a.ready || !k.ready())
	switch {
	case !reached:
		a.loan.Settle(0)
		if a.unsent {
			k.keepCharge(now, a)
		}
	case err != nil && !unusable(err) && k.lost(a):
		a.loan.Lost()
	case a.garbled && err != nil && a.reports == 0: // what was used is unknown
		a.loan.Settle(a.loan.Tokens())
	default:
		if a.reports > a.loan.Tokens() && k.count != nil {
			k.count.overreport(k.ctx, k.series())
		}
		a.loan.Settle(a.reports)
	}
	k.seen = k.seen || reached
	if err == nil || a.served {
		k.budget.Success(now, k.target.name)
		k.target.throttle.succeeded()
	}
	if a.report.HasElapsed && !k.streaming { // a stream's time is its application's too
		mono, trip := k.mono(now), now.Sub(a.began)
		server := time.Duration(min(a.report.Elapsed, trip.Microseconds())) * time.Microsecond
		k.target.reserve.Learn(mono, trip, server)
		k.target.transit.Learn(mono, trip-server)
	}
}

// keepCharge keeps the charge for an attempt that was not sent for the next one,
// unless one is kept already.
func (k *call) keepCharge(now time.Time, a *attempt) {
	switch {
	case a.paid && k.paid:
		k.refund(now, a.charge)
	case a.paid:
		k.paid, k.charged = true, a.charge
	}
}

// reply returns the trailer, or none if gRPC has not filled it in: it might do so
// at any time.
func (a *attempt) reply() metadata.MD {
	if !a.heard {
		return nil
	}
	return a.trailer
}

// reached reports whether a server may have seen an attempt that failed. That
// none did is certain only if gRPC had the attempt's call options and says that
// no server was picked: an interceptor in between may have dropped them.
func (a *attempt) reached() bool {
	return a.opened || !a.heard || a.peer.Addr != nil || a.peer.AuthInfo != nil || len(a.trailer) > 0
}

// lost reports whether a failure is no reply of the server's. The status of a
// failure is always sent with some metadata, by a server that knows of this with
// a report; a failure that gRPC makes by itself has none, and one that a proxy
// makes has no report.
func (k *call) lost(a *attempt) bool {
	return len(a.reply()) == 0 || !a.reported && !a.garbled && k.target.reports.Load()
}

// ranOut reports whether the failure of an attempt is that its time was over:
// by its own clock, or by that of a server below. Each hop tells the next a
// deadline that is earlier by its reserve, at most a fifth of what remains, so
// that after three hops little more than half may be left of it. A server that
// answers sooner speaks of something else.
func (a *attempt) ranOut(err error) bool {
	return a.expired || codeOf(err) == codes.DeadlineExceeded && a.allowed > 0 &&
		a.ended.Sub(a.began) >= a.allowed/2
}

// readReport reads what the reply reports: nothing if it is from a peer that
// does not, or if it is malformed, or there are several, of which the largest is
// charged.
func (k *call) readReport(a *attempt) {
	values := a.reply()[wire.ReportKey]
	if len(values) == 0 {
		return
	}
	if r, ok := wire.ParseReport(values[0]); ok && len(values) == 1 {
		a.report, a.reported, a.reports = r, true, r.Used
		if !k.target.reports.Load() {
			k.target.reports.Store(true)
		}
		if k.childKey {
			k.target.keepsOutcomes(k.fullMethod).Store(r.HasKeeps && r.Keeps == hashOf(k.fullMethod))
		}
		return
	}
	a.garbled = true
	for _, v := range values { // a callee that passes on its own callee's report sends two
		if r, ok := wire.ParseReport(v); ok {
			a.reports = max(a.reports, r.Used)
		}
	}
	k.malformed(wire.ReportKey)
}

// transit returns how long the way to the target and back takes at least.
func (k *call) transit(now time.Time) time.Duration { return k.target.reserve.Get(k.mono(now)) }
