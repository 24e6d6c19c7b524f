package outbound

import (
	"context"
	"slices"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
)

// IsHedged reports whether the call is made by its hedging policy. A call that is not safe to repeat
// is not.
func (c *Call) IsHedged() bool {
	return c.policy.Hedge != nil && !c.Observe && c.policy.Attempts() > 1 && c.safe()
}

// DisableHedging limits a call that its policy would hedge to a single attempt. If the call is only
// observed, the decision about its failure assumes the attempts that it could have had.
func (c *Call) DisableHedging() {
	if c.policy.Hedge == nil {
		return
	}
	single := &policy.Retry{MaxAttempts: 1}
	if c.Observe {
		single.MaxAttempts, single.Codes = c.policy.Attempts(), c.policy.Hedge.NonFatal
	}
	c.policy.Hedge, c.policy.Retry = nil, single
}

// hedge makes a unary call by its hedging policy. Each attempt has its own reply and its own call
// options. Those of the attempt that decides the race are copied to the user's.
func (c *Call) hedge(req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker) error {
	last, err := c.Race(func(ctx context.Context, r *Runner) error {
		r.Result = NewLike(reply)
		opts := r.Watch(c.observe(&r.Attempt, slices.Clone(c.Options), r.Finish))
		r.Making.Store(true)
		defer r.Making.Store(false)
		return invoker(ctx, c.FullMethod, req, r.Result, cc, opts...)
	})
	if err == nil {
		copyMessage(reply, last.Result)
	}
	c.CopyTo(&last.Attempt)
	return err
}

// Runner is one of several attempts that are made at the same time.
type Runner struct {
	Attempt
	Result any  // the reply or the stream
	Local  bool // the failure was made on this side, so that another attempt would not help
	Cancel context.CancelFunc

	err      error
	panicked any
}

// Race makes attempts until one succeeds or the policy allows no more. The next one starts after a
// delay, or at once when one has failed. Race returns the attempt that decides the call: the winner or,
// if none succeeds, the last to fail. It returns only when all attempts have ended, because they share
// the request, which then belongs to the user again.
//
// The attempts run in their own goroutines. Everything else, such as tokens, spans and metrics, is
// done in the goroutine of the caller.
func (c *Call) Race(run func(ctx context.Context, r *Runner) error) (*Runner, error) {
	h := &race{call: c, run: run, goesOn: c.Streaming, maxAttempts: c.policy.Attempts(), results: make(chan *Runner)}
	h.delay, h.delayed = c.hedgeDelay()
	h.timer = time.NewTimer(h.delay)
	defer h.timer.Stop()
	if !h.delayed {
		h.timer.Stop()
	}
	finished := false
	defer func() {
		if !finished { // something below has panicked in this goroutine
			h.abandon()
		}
	}()
	h.start()
	for {
		select {
		case <-h.timer.C:
			d := h.next(nil)
			h.decideWaiting(d)
			if d == telemetry.Retried {
				c.telemetry.Hedged(h.delay, c.attempts)
			}
		case r := <-h.results:
			if h.attemptEnded(r) {
				finished = true
				h.stop(r)
				return r, r.err
			}
		}
	}
}

// race is the state of a race. A race is open while attempts may still be started, and closed while it
// only waits for those under way: because the policy allows no more, no token is left, there is no time
// for another attempt, or a server said so.
type race struct {
	call        *Call
	run         func(ctx context.Context, r *Runner) error
	maxAttempts int
	delay       time.Duration
	delayed     bool // there is a delay; otherwise, only a failure starts the next attempt
	timer       *time.Timer
	results     chan *Runner
	goesOn      bool // the winner goes on, as a stream does
	running     []*Runner

	starting *Runner   // not yet among those running
	waiting  []*Runner // failed; their servers asked for a retry after a time
	closed   bool
	reason   string // why it is closed; empty if the decision says enough
}

// start starts an attempt.
func (h *race) start() {
	r := &Runner{}
	h.starting = r
	ctx, release := h.call.Begin(&r.Attempt, h.maxAttempts-h.call.attempts-1)
	h.starting = nil
	ctx, r.Cancel = context.WithCancel(ctx)
	h.running = append(h.running, r)
	go func() {
		returned := false
		defer func() {
			if !returned {
				r.panicked, r.err = recover(), errPanicked
			}
			if release != nil {
				release()
			}
			h.results <- r
		}()
		r.err = h.run(ctx, r)
		returned = true
	}()
}

// next starts the next attempt if that is allowed, and sets the timer for the one after it. The
// argument failed is the attempt whose failure is the reason, or nil. next returns Retried, or the
// decision that explains why no attempt was started.
func (h *race) next(failed *Runner) telemetry.Decision {
	c := h.call
	now := time.Now()
	d := telemetry.Retried
	switch end, ok := c.Context.Deadline(); {
	case h.closed:
		c.Reason = h.reason
		return c.Decision
	case c.attempts >= h.maxAttempts:
		d = telemetry.Exhausted
	case c.Context.Err() != nil, ok && end.Sub(now) <= c.transit(now):
		d, c.Reason = telemetry.Deadline, telemetry.ReasonTooShort
	case !h.payNext(now, failed):
		d = telemetry.BudgetEmpty
	}
	if d != telemetry.Retried {
		h.closed, c.Decision, h.reason = true, d, c.Reason
		h.timer.Stop()
		return d
	}
	h.start()
	if h.delayed {
		h.timer.Reset(h.delay)
	}
	return d
}

// payNext pays for the next attempt. If no attempt is under way, the next one is paid for like a retry,
// and may therefore be free.
func (h *race) payNext(now time.Time, failed *Runner) (paid bool) {
	c := h.call
	if len(h.running) == 0 && failed != nil {
		paid, c.noTokens = c.pay(now, &failed.Attempt, failed.err)
		return paid
	}
	if c.paid {
		return true
	}
	cause := budget.Speculative
	if failed != nil {
		cause = budget.AfterFailure
	}
	paid, c.noTokens = c.takeTokens(now, cause, nil)
	return paid
}

// attemptEnded decides about an attempt that has ended, and reports whether the race is over.
func (h *race) attemptEnded(r *Runner) (over bool) {
	h.running = slices.DeleteFunc(h.running, func(other *Runner) bool { return other == r })
	if r.err != nil || !h.goesOn {
		r.Cancel()
	}
	if r.err == nil {
		h.won(r)
		return true
	}
	h.call.Settle(&r.Attempt, r.err)
	d, fatal := h.verdict(r)
	switch push := parsePushback(r.receivedTrailer()); {
	case d != telemetry.Retried:
		h.close(d, fatal)
	case push.said && len(h.running) > 0 && !h.closed: // the next one starts when the server wants it
		h.timer.Reset(push.after)
		h.waiting = append(h.waiting, r)
		return false
	case push.said && !h.closed:
		if again, err := h.wait(r, push.after); !again {
			h.call.EndAttempt(&r.Attempt, r.err, h.call.Decision)
			r.err = err
			return true
		}
		d = h.next(r)
	default:
		d = h.next(r)
	}
	h.decideWaiting(d)
	h.call.EndAttempt(&r.Attempt, r.err, d)
	return fatal || len(h.running) == 0
}

// won decides about the attempt that has succeeded.
func (h *race) won(r *Runner) {
	c := h.call
	c.Decision, c.noTokens, c.Reason = telemetry.Done, false, ""
	if c.attempts > 1 {
		r.hedge = telemetry.HedgeResultWon
	}
	if c.policy.Hedge.Delay == policy.AtP95 {
		c.latency().add(time.Now(), time.Since(r.record.Started))
	}
	if !h.goesOn {
		c.Settle(&r.Attempt, nil)
		c.EndAttempt(&r.Attempt, nil, telemetry.Done)
	}
}

// verdict decides about an attempt that has failed. A fatal failure ends the call.
func (h *race) verdict(r *Runner) (d telemetry.Decision, fatal bool) {
	c := h.call
	r.Local = r.Local || isLocal(r.err)
	d = c.verdict(&r.Attempt, r.err, c.policy.Hedge.Continues)
	goesOn := c.policy.Hedge.Continues(hoperr.Code(r.err)) || c.keyInProgress(r.err) || r.Timeout > 0 && r.ranOut(r.err)
	fatal = c.Context.Err() != nil || r.panicked != nil || r.Local || !goesOn
	if r.Local {
		d, c.Reason = telemetry.NotRetryable, telemetry.ReasonLocal
	}
	if r.panicked != nil {
		d, c.Reason = telemetry.NotRetryable, telemetry.ReasonPanicked
	}
	return d, fatal
}

// close closes the race after a failure that no attempt may follow. If the race was closed before, the
// earlier decision about the call stays, unless this failure is fatal or the last, or its server has
// said not to retry.
func (h *race) close(d telemetry.Decision, fatal bool) {
	c := h.call
	if !h.closed || fatal || d == telemetry.Marked || d == telemetry.Pushback || len(h.running) == 0 {
		h.closed, c.Decision, c.noTokens, h.reason = true, d, false, c.Reason
	}
	h.timer.Stop()
}

// decideWaiting ends the failed attempts whose servers have asked for a retry after a time. It is
// called when that time has come or the race has ended.
func (h *race) decideWaiting(d telemetry.Decision) {
	for _, r := range h.waiting {
		if d == telemetry.HedgeLost {
			r.hedge = telemetry.HedgeResultLost
		}
		h.call.EndAttempt(&r.Attempt, r.err, d)
	}
	h.waiting = nil
}

// wait waits before the next attempt while none is under way.
func (h *race) wait(r *Runner, d time.Duration) (again bool, err error) {
	c := h.call
	now := time.Now()
	if end, ok := c.Context.Deadline(); ok && end.Sub(now) <= d+c.transit(now) {
		h.closed, c.Decision, c.Reason = true, telemetry.Deadline, telemetry.ReasonTooShort
		return false, r.err
	}
	c.pause = d
	if again, err = c.wait(&r.Attempt, r.err); !again {
		h.closed = true
	}
	return again, err
}

// abandon ends the attempts under way after a panic, and waits for them.
func (h *race) abandon() {
	if h.starting != nil {
		h.call.EndPanicked(&h.starting.Attempt)
	}
	for _, r := range h.running {
		r.Cancel()
	}
	for range h.running {
		h.call.EndPanicked(&(<-h.results).Attempt)
	}
	h.decideWaiting(telemetry.NotRetryable)
}

// stop cancels the attempts that are still under way when r has decided the race, and waits for them.
// If an attempt has panicked, stop panics with the same value.
func (h *race) stop(r *Runner) {
	c := h.call
	for _, other := range h.running {
		other.Cancel()
	}
	if r.err == nil {
		h.decideWaiting(telemetry.HedgeLost)
	} else {
		h.decideWaiting(c.Decision)
	}
	panicked := r.panicked
	for range h.running {
		other := <-h.results
		h.lost(other)
		if panicked == nil {
			panicked = other.panicked
		}
	}
	if panicked == nil {
		return
	}
	if h.goesOn && r.err == nil {
		r.Cancel()
		c.EndPanicked(&r.Attempt)
	}
	panic(panicked)
}

// lost ends an attempt that was cancelled because another one decided the race.
func (h *race) lost(r *Runner) {
	c := h.call
	if r.err == nil && h.goesOn { // it had started to answer too
		r.err = hoperr.NewCanceled()
	}
	c.Settle(&r.Attempt, r.err)
	r.hedge = telemetry.HedgeResultLost
	// An attempt that was slower than the delay is learned as slightly slower, because its real
	// latency is unknown. If many are, the delay grows step by step.
	if h.delayed && r.err != nil && r.ended.Sub(r.record.Started) >= h.delay && c.policy.Hedge.Delay == policy.AtP95 {
		c.latency().add(c.ended, h.delay+h.delay/100)
	}
	c.EndAttempt(&r.Attempt, r.err, telemetry.HedgeLost)
}

// hedgeDelay returns the delay before the next attempt, or false if it is not known.
func (c *Call) hedgeDelay() (time.Duration, bool) {
	if c.policy.Hedge.Delay == policy.AtP95 {
		return c.latency().p95(c.started)
	}
	return c.policy.Hedge.Delay, true
}

// latency returns the recent latency of the method at the target.
func (c *Call) latency() *latency {
	return c.target.latencies.Get(c.FullMethod, func(string) *latency { return &latency{} })
}
