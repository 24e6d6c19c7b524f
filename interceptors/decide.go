package interceptors

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/budget"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
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
	outrun       decision = "hedge_lost"    // another attempt of the call was sooner
)

// Reasons for a decision not to retry that does not tell enough by itself.
const (
	becauseCode      = "code"            // the policy does not name it
	becauseCancelled = "cancelled"       // the application cancelled the call
	becauseCommitted = "committed"       // the application has had a part of the stream's response
	becauseLocal     = "local"           // the error was made on this side
	becausePanicked  = "panicked"        // something below did
	becausePassed    = "passed"          // the deadline has passed
	becauseTooShort  = "too_short"       // it leaves no time for the pause and another attempt
	becauseRequest   = "request_tokens"  // the request's tokens are used, or lent to its other calls
	becauseTarget    = "target_tokens"   // the target is sent no more extra attempts for now
	becauseThrottled = "retry_throttled" // retryThrottling has closed
	becauseRepeated  = "other_retries"   // another interceptor retries the call
)

// again judges the attempt that has ended with err, and waits for the time of
// the next if there is one. If not, it returns the error of the call.
func (k *call) again(a *attempt, err error) (bool, error) {
	var pause time.Duration
	k.refreshPolicy()
	k.decision, k.wanting, pause = k.judge(a, err)
	again, result := false, err
	if k.decision == retried && k.mode == Enforce {
		k.paused = pause
		again, result = k.pause(a, err)
	}
	k.endAttempt(a, err, k.decision)
	return again, result
}

// judge returns the decision on an attempt, whether only a token was missing,
// and the pause before the next if there is one.
func (k *call) judge(a *attempt, err error) (d decision, wanting bool, pause time.Duration) {
	now := time.Now()
	if d := k.verdict(a, err, k.policy.retries); d != retried {
		return d, false, 0
	}
	pause = k.nextPause(parsePushback(a.reply()))
	if end, ok := k.ctx.Deadline(); ok && end.Sub(now) <= pause+k.transit(now) {
		k.reason = becauseTooShort
		return outOfTime, false, 0
	}
	paid, wanting := k.pay(now, a, err)
	if !paid {
		return budgetEmpty, wanting, 0
	}
	return retried, false, pause
}

// verdict returns what an attempt that has ended with err allows: another, as
// far as time and tokens go, or none and why. Which codes may be repeated is
// for repeats to say.
func (k *call) verdict(a *attempt, err error, repeats func(codes.Code) bool) decision {
	k.reason = ""
	if err == nil {
		return done
	}
	switch {
	case k.deadlinePassed():
		k.ranOut, k.reason = true, becausePassed
		return outOfTime
	case k.ctx.Err() != nil:
		k.reason = becauseCancelled
		return notRetryable
	}
	push, code := parsePushback(a.reply()), codeOf(err)
	if push.stop || repeats(code) {
		k.target.throttle.failed()
	}
	// A hop that declined for want of tokens alone may be asked again by one that
	// holds some by then. Every other "do not retry" is final.
	if push.stop && !a.report.Wanting {
		if a.reported {
			return marked
		}
		return pushedBack
	}
	switch ranOut := a.ranOut(err); {
	case ranOut && a.timeout == 0 && !repeats(code): // a server's time was over, which was the call's
		k.ranOut, k.reason = true, becausePassed
		return outOfTime
	case !ranOut && !repeats(code) && !k.comesBack(err):
		k.reason = becauseCode
		return notRetryable
	case unusable(err), isDrop(err):
		k.reason = becauseLocal
		return notRetryable
	}
	if k.seen && !k.safe() {
		return unsafe
	}
	if a.repeatedBelow(repeats) {
		k.reportOtherRetries()
		k.reason = becauseRepeated
		return exhausted
	}
	if k.attempts >= k.policy.attempts() {
		return exhausted
	}
	return retried
}

// deadlinePassed reports whether the call's context has ended because its deadline
// has passed. At that time the cancellation by a caller above, whose own deadline
// it is, is often first.
func (k *call) deadlinePassed() bool {
	if k.ctx.Err() == nil {
		return false
	}
	d, ok := k.ctx.Deadline()
	return ok && time.Until(d) < derived
}

// nextPause draws the pause before the next attempt: what the server asked for,
// after which the backoff begins anew (gRFC A6), or the backoff.
func (k *call) nextPause(push pushback) time.Duration {
	if push.said && !push.stop {
		k.pauses, k.backedOff = 0, 0
		return push.after
	}
	k.pauses++
	backoff := k.policy.backoff()
	k.backedOff = backoff.pause(k.pauses, k.backedOff, rand.Float64()) //nolint:gosec // jitter need not be secret
	return k.backedOff
}

// pay charges another attempt after attempt a has failed, unless the last was
// charged and not sent, or none was sent yet: then the next is in effect the
// first. It reports whether it was paid, and if not, whether a hop above may pay:
// the request budget was empty, or this client is new to the target.
func (k *call) pay(now time.Time, a *attempt, err error) (paid, wanting bool) {
	if k.paid || a.unsent && !k.seen {
		return true, false
	}
	cause := budget.AfterFailure
	if a.ranOut(err) {
		cause = k.timeoutCause()
	}
	return k.chargeNext(now, cause, &a.loan)
}

// timeoutCause returns the cause of a retry after an attempt's timeout. A shared
// timeout ends attempts that the call had time left for.
func (k *call) timeoutCause() budget.Cause {
	if k.policy.AttemptTimeout == AttemptTimeoutShared {
		return budget.Speculative
	}
	return budget.AfterTimeout
}

// charge is what an extra attempt was charged as.
type charge struct {
	cause  budget.Cause
	credit bool // it took no token from the request
}

// chargeNext takes what another attempt costs from both budgets. After a lost reply
// it may be made on credit, as far as the request budget goes.
func (k *call) chargeNext(now time.Time, cause budget.Cause, last *budget.Loan) (paid, wanting bool) {
	if k.target.throttle.closed() {
		k.reason = becauseThrottled
		return false, false
	}
	if !k.budget.Take(now, k.target.name, cause) {
		k.reason = becauseTarget
		return false, k.budget.IsNew(now, k.target.name)
	}
	credit := last != nil && last.Credit()
	if !credit && !k.allotment.Spend() {
		k.budget.Put(now, k.target.name, cause)
		k.reason = becauseRequest
		return false, true
	}
	k.paid, k.charged = true, charge{cause, credit}
	return true, false
}

// refund takes back the charge for an attempt that was not made after all, or was not
// sent.
func (k *call) refund(now time.Time, c charge) {
	if !c.credit {
		k.allotment.Refund()
	}
	k.budget.Put(now, k.target.name, c.cause)
}

// awaitClosing waits until ctx ends, and reports whether the connection was closed
// before.
func (k *call) awaitClosing(ctx context.Context) bool {
	if k.conn == nil {
		<-ctx.Done()
		return false
	}
	s := k.conn.GetState()
	for s != connectivity.Shutdown && k.conn.WaitForStateChange(ctx, s) {
		s = k.conn.GetState()
	}
	return s == connectivity.Shutdown
}

// pause waits for the time of the next attempt. If the call is cancelled or its
// connection closed meanwhile, it returns the error of the call: of its last attempt,
// or that it was cancelled.
func (k *call) pause(a *attempt, last error) (again bool, err error) {
	k.tracePause(a, last)
	if k.paused > 0 {
		began := time.Now()
		defer func() { k.idle += time.Since(began) }()
		ctx, stop := context.WithTimeout(k.ctx, k.paused)
		defer stop()
		if !k.awaitClosing(ctx) && k.ctx.Err() == nil {
			return true, nil
		}
	} else if k.ctx.Err() == nil {
		return true, nil
	}
	k.ended = time.Now()
	k.abandoned = true
	if k.deadlinePassed() {
		k.decision, k.reason = outOfTime, becausePassed
		return false, last
	}
	k.decision, k.reason = notRetryable, becauseCancelled
	if k.ctx.Err() == nil { // the connection was closed
		return false, last
	}
	return false, cancelledError()
}
