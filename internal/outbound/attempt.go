package outbound

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/request"
	"github.com/hopbound/hopbound/internal/telemetry"
	"github.com/hopbound/hopbound/internal/tried"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// previousAttemptsKey is the header that counts the attempts before this one (gRFC A6).
const previousAttemptsKey = "grpc-previous-rpc-attempts"

// Attempt is one attempt of a call: what it was made with, and what came back.
type Attempt struct {
	Header  metadata.MD // these three are received from gRPC
	Trailer metadata.MD
	Peer    peer.Peer

	Making   atomic.Bool // the attempt is being handed to gRPC
	Finished atomic.Bool // gRPC has finished it, and has filled in what it receives
	Opened   bool        // it is a stream that could be opened
	Expired  bool        // its own timeout has ended it; set for streams, whose context does not tell
	Answered bool        // it is a stream that had answered when the application ended it
	Timeout  time.Duration

	record  telemetry.Attempt // with the number, from 1, and the start
	self    attemptContext
	paid    bool          // it was paid for before it was made
	charge  charge        // what it was paid with
	ready   bool          // the connection was ready
	refused atomic.Bool   // an interceptor below did not send it
	loan    budget.Loan   // of tokens to the callee
	allowed time.Duration // until the deadline that the callee is told; 0 if there is none
	hedge   string        // telemetry.HedgeResultWon or HedgeResultLost, if others were made at the same time

	lastBelow    atomic.Uint32 // the code of the last call that gRPC has finished for the attempt, as a request.Codes
	earlierBelow atomic.Uint32 // the codes of earlier ones

	// What settle finds out.
	settled         bool
	received        bool // gRPC had finished the attempt, so that trailer and peer can be read
	touched         bool // a server may have seen it
	unsent          bool // there was no backend to send it to, so that it costs nothing
	unknown         bool // how many tokens were used is unknown
	ended           time.Time
	report          wire.Report
	hasReport       bool
	malformedReport bool
	readable        bool // at least one of the reports
	used            int  // tokens that the reply reports as used
}

// Number returns the attempt's number, from 1, or 0 if it was not started.
func (a *Attempt) Number() int { return a.record.Number }

// Loan returns the tokens that the attempt lends to its callee.
func (a *Attempt) Loan() *budget.Loan { return &a.loan }

// Begin starts an attempt. The argument hedges is how many hedges may start while the attempt is under
// way. Begin lends tokens to the callee, and returns the context to make the attempt with. If this context
// has its own deadline, cancel releases it; otherwise cancel is nil.
func (c *Call) Begin(a *Attempt, hedges int) (ctx context.Context, cancel context.CancelFunc) {
	c.attempts++
	a.self = attemptContext{Context: c.Context, call: c, attempt: a} // before anything below can panic
	a.record.Number, a.paid, a.charge = c.attempts, c.paid, c.charge
	c.paid = false
	a.record.Started = c.started
	if a.record.Number > 1 {
		a.record.Started = time.Now()
	}
	a.loan = c.allotment.Lend(hedges)
	a.ready = c.ready()
	ctx = c.Context
	if a.Timeout = c.attemptTimeout(a); a.Timeout > 0 && !c.Streaming {
		ctx, cancel = context.WithDeadline(ctx, a.record.Started.Add(a.Timeout))
	}
	header, reserve := c.header(ctx, a)
	a.record.Lent, a.record.Reserve = a.loan.Tokens(), reserve
	ctx, carrier := c.telemetry.StartAttempt(ctx, &a.record)
	a.self.Context = c.outgoing(ctx, a, carrier, header) //nolint:fatcontext // each attempt has its own
	return &a.self, cancel
}

// Watch adds to the options of an attempt what its telemetry needs.
func (a *Attempt) Watch(opts []grpc.CallOption) []grpc.CallOption { return a.record.Watch(opts) }

// attemptContext is the context of an attempt. It is a part of the attempt, so that it costs no
// allocation.
type attemptContext struct {
	context.Context
	call    *Call
	attempt *Attempt
}

// Value returns the attempt and the backends that the call has tried under their keys.
func (c *attemptContext) Value(key any) any {
	switch key.(type) {
	case request.AttemptKey:
		return c
	case tried.Key:
		return &c.call.tried
	}
	return c.Context.Value(key)
}

// Refuse records that an interceptor below did not send the attempt that ctx belongs to.
func Refuse(ctx context.Context) {
	if c, ok := ctx.Value(request.AttemptKey{}).(*attemptContext); ok {
		c.attempt.refused.Store(true)
	}
}

// Refused reports whether an interceptor below has not sent the attempt that ctx belongs to.
func Refused(ctx context.Context) bool {
	c, ok := ctx.Value(request.AttemptKey{}).(*attemptContext)
	return ok && c.attempt.refused.Load()
}

// TargetOf returns the target of the attempt that ctx belongs to, or the empty string if there is none.
func TargetOf(ctx context.Context) string {
	if c, ok := ctx.Value(request.AttemptKey{}).(*attemptContext); ok {
		return c.call.target.name
	}
	return ""
}

// Logged contains the fields of an attempt that logs show.
type Logged struct {
	Number   int
	Lent     int // tokens; none are lent if Observed
	Observed bool
	Key      idempotency.Key // empty if there is none
}

// AttemptOf returns the log fields of the attempt that ctx belongs to, or false if there is none.
func AttemptOf(ctx context.Context) (Logged, bool) {
	c, ok := ctx.Value(request.AttemptKey{}).(*attemptContext)
	if !ok {
		return Logged{}, false
	}
	return Logged{c.attempt.record.Number, c.attempt.loan.Tokens(), c.call.Observe, c.call.sentKey()}, true
}

// invoke makes one attempt of a unary call.
func (c *Call) invoke(req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker) error {
	opts := c.Options
	if c.attempts > 0 { // interceptors may still refer to the last attempt
		c.last, opts = &Attempt{}, slices.Clip(opts)
	}
	a := c.last
	opts = c.observe(a, opts, a.Finish)
	ctx, cancel := c.Begin(a, 0)
	if cancel != nil {
		defer cancel()
	}
	opts = a.Watch(opts)
	a.Making.Store(true)
	err := invoker(ctx, c.FullMethod, req, reply, cc, opts...)
	a.Making.Store(false)
	c.Settle(a, err)
	if c.policy.AttemptTimeout == policy.Shared {
		c.learnLatency(a, err)
	}
	return err
}

// learnLatency records how long an attempt took, for the shared timeouts of later attempts. The real
// latency of an attempt that timed out is unknown; it counts as slightly longer than the timeout.
func (c *Call) learnLatency(a *Attempt, err error) {
	switch took := a.ended.Sub(a.record.Started); {
	case err == nil:
		c.latency().add(a.ended, took)
	case a.Timeout > 0 && a.ranOut(err):
		c.latency().add(a.ended, a.Timeout+a.Timeout/100)
	}
}

// attemptTimeout returns the attempt's own timeout, or 0 if the attempt may take as long as the call.
func (c *Call) attemptTimeout(a *Attempt) time.Duration {
	remaining, ok := c.remaining(a.record.Started)
	timeout := c.policy.AttemptTimeout
	if c.Observe {
		return 0
	}
	if timeout == policy.Shared {
		timeout = 0
		if more := c.mayFollow(a); ok && more > 0 {
			timeout = c.sharedTimeout(a, remaining, more)
		}
	}
	if timeout <= 0 || ok && timeout >= remaining {
		return 0
	}
	return timeout
}

// sharedTimeout divides the remaining time, minus the bounds of the pauses but at least half of it,
// between this attempt and the more attempts that may follow. An attempt gets at least twice the method's
// 95th percentile.
func (c *Call) sharedTimeout(a *Attempt, remaining time.Duration, more int) time.Duration {
	backoff := c.policy.Backoff()
	share := remaining
	for i := range more {
		share -= backoff.Bound(c.backoffs + 1 + i)
	}
	timeout := max(share, remaining/2) / time.Duration(more+1)
	if usual, known := c.latency().p95(a.record.Started); known {
		timeout = max(timeout, 2*usual)
	}
	return timeout
}

// mayFollow returns how many attempts may follow attempt a, as far as is known when a starts.
func (c *Call) mayFollow(a *Attempt) int {
	if !c.safe() {
		return 0
	}
	affordable := c.budget.Affords(a.record.Started, c.target.name, c.timeoutCause())
	return max(0, min(c.policy.Attempts()-a.record.Number, a.loan.Tokens()+c.allotment.Free(), affordable))
}

// header returns the hop-context of an attempt, and the time that is kept in reserve. The timestamp is
// rounded down and the deadline up to a millisecond, so that calls within one millisecond send the same
// value, which HPACK encodes as one byte.
func (c *Call) header(ctx context.Context, a *Attempt) (h wire.Context, reserve time.Duration) {
	sent, id := c.client.clock.Read(a.record.Started, c.client.mono(a.record.Started))
	h = wire.Context{Sent: sent - sent%1000, ClockID: id, HasSent: sent >= 0, Attempt: a.record.Number, Level: request.Level(ctx)}
	if !c.Observe {
		h.Budget, h.HasBudget = a.loan.Tokens(), true
	}
	h.Keyed = (c.wouldKey || c.keyedAbove) && c.sentKey() == "" || c.forwardsKey()
	if d, ok := ctx.Deadline(); ok {
		remaining := d.Sub(a.record.Started)
		reserve = c.reserve(a.record.Started, remaining)
		a.allowed = remaining - reserve
		until := sent + a.allowed.Microseconds() + 999
		h.Deadline, h.HasDeadline = until-until%1000, true
	}
	return h, reserve
}

// outgoing returns the context of an attempt with its metadata.
func (c *Call) outgoing(ctx context.Context, a *Attempt, carrier []string, h wire.Context) context.Context {
	var buf [wire.MaxLen]byte
	kv := append(append(make([]string, 0, 10), carrier...), wire.ContextKey, string(h.Append(buf[:0])))
	if a.record.Number > 1 {
		kv = append(kv, previousAttemptsKey, strconv.Itoa(a.record.Number-1))
	}
	if c.hasKey {
		kv = append(kv, idempotency.Header, string(c.key))
	}
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

// EndAttempt records the end of an attempt.
func (c *Call) EndAttempt(a *Attempt, err error, d telemetry.Decision) {
	c.telemetry.EndAttempt(&a.self, &a.record, &telemetry.AttemptEnd{
		Err: err, Decision: d, Reason: c.Reason, Reached: a.touched, Peer: a.backend(),
		Used: a.loan.Used(), Unknown: a.unknown, Hedge: a.hedge, Ended: a.ended,
	})
}

// backend returns the address of the server that was picked, or nil if none was or it is unknown.
func (a *Attempt) backend() net.Addr {
	if !a.received {
		return nil
	}
	return a.Peer.Addr
}

// EndPanicked ends an attempt during which an interceptor, a codec or gRPC has panicked. The callee may
// have used the lent tokens.
func (c *Call) EndPanicked(a *Attempt) {
	c.settlePanicked(a)
	c.EndAttempt(a, errPanicked, c.Decision)
}

// RecordMessages records how many messages of a stream were sent and received in an attempt, and what
// committed the stream to it.
func (c *Call) RecordMessages(a *Attempt, sent, received int64, committedBy string) {
	c.telemetry.Messages(&a.record, sent, received, committedBy)
}
