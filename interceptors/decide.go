package interceptors

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// decision is what became of an attempt. It is an attribute of spans and
// metrics.
type decision string

const (
	done         decision = "done"          // it succeeded
	retried      decision = "retried"       // another one follows
	exhausted    decision = "exhausted"     // it was the last that the policy allows
	budgetEmpty  decision = "budget_empty"  // there is no token for another
	outOfTime    decision = "deadline"      // the deadline has passed or leaves no time for another
	notRetryable decision = "not_retryable" // the policy does not repeat such a failure
	unsafe       decision = "unsafe"        // a server may have seen it, and nothing says it may be repeated
	pushedBack   decision = "pushback"      // the server said not to retry
	marked       decision = "marked"        // a hop below had decided not to retry it
)

// decide judges the attempt that has ended with err, and reports whether
// another follows, after a pause.
func (k *call) decide(err error) bool {
	var pause time.Duration
	k.decision, k.wanting, pause = k.judge(err)
	if k.mode == Enforce && k.decision == retried {
		k.paused = pause
	}
	k.endAttempt(err)
	k.count.attempt(k.ctx, k.method, k.decision, k.mode)
	return k.decision == retried && k.mode == Enforce
}

// judge returns the decision on an attempt, whether only a token was missing,
// and the pause before the next if there is one.
func (k *call) judge(err error) (d decision, wanting bool, pause time.Duration) {
	if err == nil {
		return done, false, 0
	}
	now := time.Now()
	push := parsePushback(k.trailer)
	switch k.ctx.Err() {
	case context.DeadlineExceeded:
		return outOfTime, false, 0
	case context.Canceled:
		return notRetryable, false, 0
	}
	// A hop that declined for want of tokens alone may be asked again by one that
	// holds some by then. Every other "do not retry" is final.
	if push.stop && !k.report.Wanting {
		if k.reported {
			return marked, false, 0
		}
		return pushedBack, false, 0
	}
	code := codeOf(err)
	if ended := code == codes.DeadlineExceeded && k.timeout > 0; !ended && !k.policy.retries(code) {
		return notRetryable, false, 0
	}
	if k.seen && !k.safe() {
		return unsafe, false, 0
	}
	if k.n >= k.policy.attempts() {
		return exhausted, false, 0
	}
	pause = k.nextPause(push)
	if end, ok := k.ctx.Deadline(); ok && end.Sub(now) <= pause+k.transit(now) {
		return outOfTime, false, 0
	}
	paid, wanting := k.pay(now)
	if !paid {
		return budgetEmpty, wanting, 0
	}
	return retried, false, pause
}

// nextPause draws the pause before the next attempt: what the server asked for,
// after which the backoff begins anew (gRFC A6), or the backoff.
func (k *call) nextPause(push pushback) time.Duration {
	if push.said && !push.stop {
		k.pauses = 0
		return push.after
	}
	k.pauses++
	backoff := k.policy.backoff()
	return backoff.pause(k.pauses, k.paused, rand.Float64()) //nolint:gosec // jitter need not be secret
}

// pay charges another attempt, unless no server has seen any yet: then the next
// is in effect the first. It reports whether it was paid, and if not, whether
// for want of the request's own tokens.
func (k *call) pay(now time.Time) (paid, wanting bool) {
	k.paid = false
	if !k.seen {
		return true, false
	}
	if k.mode == Observe {
		return true, false
	}
	if k.target.meter.Take(now, 1) == 0 {
		return false, false
	}
	if !k.allotment.Spend(now) && !k.lease.Credit() {
		k.target.meter.Put(now, 1)
		return false, true
	}
	k.paid = true
	return true, false
}

// pause waits for the time of the next attempt. If the call is cancelled
// meanwhile, it takes back the charge and returns the error of the call: of its
// last attempt, or that it was cancelled.
func (k *call) pause(last error) (again bool, err error) {
	k.tracePause(last)
	if k.paused > 0 {
		timer := time.NewTimer(k.paused)
		defer timer.Stop()
		select {
		case <-timer.C:
			return true, nil
		case <-k.ctx.Done():
		}
	} else if k.ctx.Err() == nil {
		return true, nil
	}
	if k.paid {
		k.allotment.Unspend()
		k.target.meter.Put(time.Now(), 1)
	}
	k.decision = outOfTime
	if errors.Is(k.ctx.Err(), context.Canceled) {
		k.decision = notRetryable
		return false, status.FromContextError(k.ctx.Err()).Err()
	}
	return false, last
}

// end ends the call: it gives back what a root did not use, and leaves word of a
// failure with the request that the call belongs to.
func (k *call) end(err error) {
	k.lease.Lost(k.ended) // still open only if the attempt panicked
	if k.allotment == &k.root {
		k.root.Close(k.ended, err == nil)
	}
	if err != nil && k.request != nil {
		k.request.downstream.failed(codeOf(err), k.decision, k.wanting, k.ctx.Err() != nil)
	}
	k.endCall(err)
	if k.cancel != nil {
		k.cancel()
	}
	if k.finish != nil {
		k.finish(err)
	}
}
