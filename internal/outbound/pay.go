package outbound

import (
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/telemetry"
)

// charge is what an extra attempt was paid with.
type charge struct {
	cause  budget.Cause
	credit bool // it took no token of the request
}

// pay pays for another attempt after attempt a has failed with err. The next attempt is free if the
// last one was not sent: it uses what the last one was paid with, or it takes the place of the first,
// which is free. If pay fails, noTokens says that a hop above may retry, because the request budget
// was empty, or the target's bucket was empty and new.
func (c *Call) pay(now time.Time, a *Attempt, err error) (paid, noTokens bool) {
	if c.paid || a.unsent && !c.seen {
		return true, false
	}
	cause := budget.AfterFailure
	if a.ranOut(err) {
		cause = c.timeoutCause()
	}
	return c.takeTokens(now, cause, &a.loan)
}

// timeoutCause returns the cause of a retry after an attempt's timeout. A shared timeout ends an
// attempt although the call has time left for it.
func (c *Call) timeoutCause() budget.Cause {
	if c.policy.AttemptTimeout == policy.Shared {
		return budget.Speculative
	}
	return budget.AfterTimeout
}

// takeTokens takes the tokens for another attempt from both budgets. After a lost reply, whose loan is
// last, the attempt may be made on credit of the request budget.
func (c *Call) takeTokens(now time.Time, cause budget.Cause, last *budget.Loan) (paid, noTokens bool) {
	if c.target.throttle.closed() {
		c.Reason = telemetry.ReasonThrottled
		return false, false
	}
	if !c.budget.Take(now, c.target.name, cause) {
		c.Reason = telemetry.ReasonTargetTokens
		return false, c.budget.IsNew(now, c.target.name)
	}
	credit := last != nil && last.Credit()
	if !credit && !c.allotment.Spend() {
		c.budget.Put(now, c.target.name, cause)
		c.Reason = telemetry.ReasonRequestTokens
		return false, true
	}
	c.paid, c.charge = true, charge{cause, credit}
	return true, false
}

// refund returns the tokens of an attempt that was not made or not sent.
func (c *Call) refund(now time.Time, paid charge) {
	if !paid.credit {
		c.allotment.Refund()
	}
	c.budget.Put(now, c.target.name, paid.cause)
}
