package interceptors

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/hopbound/hopbound/budget"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// What became of attempts that were made at the same time.
const (
	hedgeWon  = "won"
	hedgeLost = "lost"
)

// hedges reports whether the call is made as its hedging policy says. One that
// is not safe to repeat is a plain call.
func (k *call) hedges() bool {
	return k.policy.Hedge != nil && k.mode == Enforce && k.policy.attempts() > 1 && k.safe()
}

// plainUnless makes a call that its policy would hedge a plain one, of one
// attempt, unless it is hedged. A client that only observes judges it by how often
// it would be made.
func (k *call) plainUnless(hedged bool) {
	if k.policy.Hedge == nil || hedged {
		return
	}
	plain := &RetryPolicy{MaxAttempts: 1}
	if k.mode == Observe {
		plain.MaxAttempts, plain.Codes = k.policy.attempts(), k.policy.Hedge.NonFatal
	}
	k.policy.Hedge, k.policy.Retry = nil, plain
}

// hedge makes a unary call by its hedging policy. Each attempt has a reply and
// observing call options of its own; those of the one that counts become the
// user's.
func (k *call) hedge(req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker) error {
	last, err := k.race(func(ctx context.Context, r *runner) error {
		r.message = newLike(reply)
		opts := k.observed(&r.attempt, slices.Clone(k.opts), r.finish)
		r.making.Store(true)
		defer r.making.Store(false)
		return invoker(ctx, k.fullMethod, req, r.message, cc, opts...)
	})
	if err == nil {
		copyMessage(reply, last.message)
	}
	last.tell(k.observers)
	return err
}

// runner is one of several attempts that are made at the same time.
type runner struct {
	attempt
	cancel   context.CancelFunc
	message  any
	local    bool // the error was made on this side, so that another attempt would not help
	err      error
	panicked any
}

// race makes attempts until one succeeds or the policy allows no more: the next
// when a delay has passed, or at once when one has failed. It returns the one
// that counts, the winner or the last to fail, after all of them have ended:
// they share the request, which is the user's again afterwards.
//
// The attempts run in goroutines of their own. All else, leases and spans and
// what is counted, is done in that of the caller.
func (k *call) race(run func(ctx context.Context, r *runner) error) (*runner, error) {
	h := &race{call: k, run: run, stays: k.streaming, most: k.policy.attempts(), results: make(chan *runner)}
	h.delay, h.delayed = k.hedgeDelay()
	h.timer = time.NewTimer(h.delay)
	defer h.timer.Stop()
	if !h.delayed {
		h.timer.Stop()
	}
	finished := false
	defer func() {
		if !finished { // something below has panicked, where nothing of it was expected
			h.abandon()
		}
	}()
	h.start()
	for {
		select {
		case <-h.timer.C:
			d := h.next(nil)
			h.decide(d)
			if d == retried && h.span != nil {
				h.event("hopbound.hedge", attrBackoff.Float64(millis(h.delay)), attrAttempt.Int(h.attempts))
			}
		case r := <-h.results:
			if h.ended(r) {
				finished = true
				h.stop(r)
				return r, r.err
			}
		}
	}
}

// race is the state of a race. While it runs, a race is open, when attempts may
// yet be started, or closed, when only those under way are waited for: because
// the policy allows no more, no token is left, there is no time for another, or
// the server said so.
type race struct {
	*call
	run     func(ctx context.Context, r *runner) error
	most    int
	delay   time.Duration
	delayed bool // there is a delay; if not, only failures start the next attempt
	timer   *time.Timer
	results chan *runner
	stays   bool // the winner goes on, as a stream does
	running []*runner

	starting  *runner   // not among those running yet
	undecided []*runner // have failed, and are to be followed when their servers want it
	closed    bool
	because   string // the reason for which it is closed, if the decision does not tell enough
}

// start starts an attempt.
func (h *race) start() {
	r := &runner{}
	h.starting = r
	ctx, release := h.begin(&r.attempt, h.most-h.attempts-1)
	h.starting = nil
	ctx, r.cancel = context.WithCancel(ctx)
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

// next starts the next attempt if that is allowed, and sets the timer for the
// one after it. The attempt that failed and so made way for it, if any, may have
// been the last under way, which the charge depends on. It returns the decision
// on that attempt.
func (h *race) next(failed *runner) decision {
	now := time.Now()
	d := retried
	switch end, ok := h.ctx.Deadline(); {
	case h.closed:
		h.reason = h.because
		return h.decision
	case h.attempts >= h.most:
		d = exhausted
	case h.ctx.Err() != nil, ok && end.Sub(now) <= h.transit(now):
		d, h.reason = outOfTime, becauseTooShort
	case !h.payNext(now, failed):
		d = budgetEmpty
	}
	if d != retried {
		h.closed, h.decision, h.because = true, d, h.reason
		h.timer.Stop()
		return d
	}
	h.start()
	if h.delayed {
		h.timer.Reset(h.delay)
	}
	return d
}

// payNext charges the next attempt. Only if none is under way may it go free,
// as a retry may that follows attempts which no server has seen.
func (h *race) payNext(now time.Time, failed *runner) (paid bool) {
	if len(h.running) == 0 && failed != nil {
		paid, h.wanting = h.pay(now, &failed.attempt, failed.err)
		return paid
	}
	if h.paid {
		return true
	}
	cause := budget.Speculative
	if failed != nil {
		cause = budget.AfterFailure
	}
	paid, h.wanting = h.chargeNext(now, cause, nil)
	return paid
}

// ended takes in that an attempt has ended, and reports whether the race has.
func (h *race) ended(r *runner) bool {
	h.running = slices.DeleteFunc(h.running, func(other *runner) bool { return other == r })
	if r.err != nil || !h.stays {
		r.cancel()
	}
	if r.err == nil {
		h.decision, h.wanting, h.reason = done, false, ""
		if h.attempts > 1 {
			r.hedge = hedgeWon
		}
		h.learnLatency(time.Since(r.began))
		if !h.stays {
			h.settle(&r.attempt, nil)
			h.endAttempt(&r.attempt, nil, done)
		}
		return true
	}
	h.settle(&r.attempt, r.err)
	r.local = r.local || unusable(r.err)
	d := h.verdict(&r.attempt, r.err, h.policy.Hedge.nonFatal)
	fatal := h.ctx.Err() != nil || r.panicked != nil || r.local ||
		!h.policy.Hedge.nonFatal(codeOf(r.err)) && !h.comesBack(r.err) && (r.timeout == 0 || !r.ranOut(r.err))
	if r.local {
		d, h.reason = notRetryable, becauseLocal
	}
	if r.panicked != nil {
		d, h.reason = notRetryable, becausePanicked
	}
	switch push := parsePushback(r.reply()); {
	case d != retried:
		// The last failure to come is that of the call, and what a server has said
		// for good weighs more than that something was wanting here.
		if !h.closed || fatal || d == marked || d == pushedBack || len(h.running) == 0 {
			h.closed, h.decision, h.wanting, h.because = true, d, false, h.reason
		}
		h.timer.Stop()
	case push.said && len(h.running) > 0 && !h.closed: // the next one when the server wants it
		h.timer.Reset(push.after)
		h.undecided = append(h.undecided, r)
		return false
	case push.said && !h.closed:
		if again, err := h.pauseFor(r, push.after); !again {
			h.endAttempt(&r.attempt, r.err, h.decision)
			r.err = err
			return true
		}
		d = h.next(r)
	default:
		d = h.next(r)
	}
	h.decide(d)
	h.endAttempt(&r.attempt, r.err, d)
	return fatal || len(h.running) == 0
}

// decide ends the attempts that have failed and whose servers wanted the next one
// later, by what became of that.
func (h *race) decide(d decision) {
	for _, r := range h.undecided {
		if d == outrun {
			r.hedge = hedgeLost
		}
		h.endAttempt(&r.attempt, r.err, d)
	}
	h.undecided = nil
}

// pauseFor waits before the next attempt while none is under way.
func (h *race) pauseFor(r *runner, d time.Duration) (again bool, err error) {
	now := time.Now()
	if end, ok := h.ctx.Deadline(); ok && end.Sub(now) <= d+h.transit(now) {
		h.closed, h.decision, h.reason = true, outOfTime, becauseTooShort
		return false, r.err
	}
	h.paused = d
	if again, err = h.pause(&r.attempt, r.err); !again {
		h.closed = true
	}
	return again, err
}

// abandon ends the attempts under way after a panic, and waits for them.
func (h *race) abandon() {
	if h.starting != nil {
		h.endPanicked(&h.starting.attempt)
	}
	for _, r := range h.running {
		r.cancel()
	}
	for range h.running {
		h.endPanicked(&(<-h.results).attempt)
	}
	h.decide(notRetryable)
}

// stop ends the attempts that are still under way when r has decided the race,
// and waits for them. If one has panicked, that goes on in the caller.
func (h *race) stop(r *runner) {
	for _, other := range h.running {
		other.cancel()
	}
	if r.err == nil {
		h.decide(outrun)
	} else {
		h.decide(h.decision)
	}
	panicked := r.panicked
	for range h.running {
		other := <-h.results
		if other.err == nil && h.stays { // it had begun to answer too
			other.err = cancelledError()
		}
		h.settle(&other.attempt, other.err)
		other.hedge = hedgeLost
		if h.delayed && other.err != nil && other.ended.Sub(other.began) >= h.delay {
			h.learnSlow()
		}
		h.endAttempt(&other.attempt, other.err, outrun)
		if panicked == nil {
			panicked = other.panicked
		}
	}
	if panicked == nil {
		return
	}
	if h.stays && r.err == nil {
		r.cancel()
		h.endPanicked(&r.attempt)
	}
	panic(panicked)
}

// hedgeDelay returns the delay before the next attempt, or false if there is
// none that is known.
func (k *call) hedgeDelay() (time.Duration, bool) {
	if k.policy.Hedge.Delay == HedgeAtP95 {
		return k.latency().p95(k.began)
	}
	return k.policy.Hedge.Delay, true
}

// latency returns what is known of how long the method takes at the target.
func (k *call) latency() *latency {
	return k.target.latencies.get(k.fullMethod, func(string) *latency { return &latency{} })
}

// learnLatency takes in how long a good reply took, for those who wait as long
// as most do.
func (k *call) learnLatency(took time.Duration) {
	if k.policy.Hedge.Delay == HedgeAtP95 {
		k.latency().add(time.Now(), took)
	}
}

// learnSlow takes in that an attempt was given up after the delay. How long it
// would have taken is not known, only that it is more. It counts as a little
// more, so that the delay grows step by step if many attempts are that slow.
func (h *race) learnSlow() {
	if h.policy.Hedge.Delay == HedgeAtP95 {
		h.latency().add(h.call.ended, h.delay+h.delay/100)
	}
}

// isMessage reports whether m is a message of protobuf, of whose kind others can
// be made. Those of other codecs may have something in them that the codec wants.
func isMessage(m any) bool {
	switch m.(type) {
	case proto.Message, protoadapt.MessageV1:
		return reflect.ValueOf(m).Kind() == reflect.Pointer
	}
	return false
}

// newLike returns a new message of the same kind.
func newLike(m any) any {
	if m, ok := m.(proto.Message); ok {
		return m.ProtoReflect().New().Interface()
	}
	return reflect.New(reflect.TypeOf(m).Elem()).Interface()
}

// copyMessage makes dst what src is.
func copyMessage(dst, src any) {
	if d, ok := dst.(proto.Message); ok {
		if s, ok := src.(proto.Message); ok {
			proto.Reset(d)
			proto.Merge(d, s)
			return
		}
	}
	reflect.ValueOf(dst).Elem().Set(reflect.ValueOf(src).Elem())
}
