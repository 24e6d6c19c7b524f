package outbound

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
)

// Attempts makes attempts until one succeeds or no other may follow, and returns the error of the
// call. If failed is not nil, it is an earlier attempt, which has failed with err.
func (c *Call) Attempts(failed *Attempt, err error, try func() (*Attempt, error)) error {
	if failed == nil {
		c.awaitConnection()
		failed, err = try()
	}
	for err != nil {
		again, result := c.retry(failed, err)
		if !again {
			return result
		}
		c.awaitConnection()
		failed, err = try()
	}
	return err
}

// Attempted returns how many attempts were made.
func (c *Call) Attempted() int { return c.attempts }

// MayRetry reports whether an attempt that has started might be followed by another one.
func (c *Call) MayRetry() bool {
	c.refreshPolicy()
	return !c.Observe && c.attempts < c.policy.Attempts() && c.safe()
}

// retry decides whether another attempt follows attempt a, which has failed with err, and waits until
// that attempt is due. If none follows, it returns the error of the call.
func (c *Call) retry(a *Attempt, err error) (again bool, result error) {
	c.refreshPolicy()
	c.judge(a, err)
	result = err
	if c.Decision == telemetry.Retried && !c.Observe {
		again, result = c.wait(a, err)
	}
	c.EndAttempt(a, err, c.Decision)
	return again, result
}

// succeeded decides about an attempt that has succeeded.
func (c *Call) succeeded(a *Attempt) {
	c.Decision, c.Reason, c.noTokens = telemetry.Done, "", false
	c.EndAttempt(a, nil, c.Decision)
}

// judge decides about an attempt that has ended with err. If another one follows, it is paid for, and
// c.pause is the pause before it.
func (c *Call) judge(a *Attempt, err error) {
	now := time.Now()
	c.noTokens = false
	if c.Decision = c.verdict(a, err, c.policy.Retries); c.Decision != telemetry.Retried {
		return
	}
	pause := c.nextPause(parsePushback(a.receivedTrailer()))
	if end, ok := c.Context.Deadline(); ok && end.Sub(now) <= pause+c.transit(now) {
		c.Decision, c.Reason = telemetry.Deadline, telemetry.ReasonTooShort
		return
	}
	paid, noTokens := c.pay(now, a, err)
	if !paid {
		c.Decision, c.noTokens = telemetry.BudgetEmpty, noTokens
		return
	}
	c.pause = pause
}

// verdict decides whether another attempt may follow attempt a, which has ended with err. It does not
// consider tokens, nor whether the time left is enough. The function retries says which codes are
// retried.
func (c *Call) verdict(a *Attempt, err error, retries func(codes.Code) bool) telemetry.Decision {
	c.Reason = ""
	switch {
	case err == nil:
		return telemetry.Done
	case c.deadlinePassed():
		c.ranOut, c.Reason = true, telemetry.ReasonPassed
		return telemetry.Deadline
	case c.Context.Err() != nil:
		c.Reason = telemetry.ReasonCancelled
		return telemetry.NotRetryable
	}
	if a.refused.Load() {
		c.Reason = telemetry.ReasonRefused
		return telemetry.NotRetryable
	}
	push, code := parsePushback(a.receivedTrailer()), hoperr.Code(err)
	if push.stop || retries(code) {
		c.target.throttle.failed()
	}
	// If the callee did not retry only because it had no tokens, a hop that has some may retry. Every
	// other pushback that says not to retry is honoured.
	if push.stop && !a.report.NoTokens {
		if a.hasReport {
			return telemetry.Marked
		}
		return telemetry.Pushback
	}
	switch ranOut := a.ranOut(err); {
	case ranOut && a.Timeout == 0 && !retries(code): // a server's deadline has passed, which was the call's
		c.ranOut, c.Reason = true, telemetry.ReasonPassed
		return telemetry.Deadline
	case !ranOut && !retries(code) && !c.keyInProgress(err):
		c.Reason = telemetry.ReasonCode
		return telemetry.NotRetryable
	case isLocal(err), isDrop(err):
		c.Reason = telemetry.ReasonLocal
		return telemetry.NotRetryable
	case c.seen && !c.safe():
		return telemetry.Unsafe
	case a.repeatedBelow(retries):
		c.telemetry.OtherRetries()
		c.Reason = telemetry.ReasonOtherRetries
		return telemetry.Exhausted
	case c.attempts >= c.policy.Attempts():
		return telemetry.Exhausted
	default:
		return telemetry.Retried
	}
}

// Conclude decides about the last attempt of a stream, which has ended with err. The argument
// committed says that the stream could no longer be retried.
func (c *Call) Conclude(a *Attempt, err error, committed bool) {
	if c.Observe && !committed {
		c.judge(a, err)
	} else {
		c.Decision, c.noTokens = c.verdict(a, err, c.policy.Retries), false
	}
	if c.Decision == telemetry.Retried && !c.Observe {
		c.Decision, c.Reason = telemetry.NotRetryable, telemetry.ReasonCommitted
	}
}

// Cancelled decides that the call was cancelled, or that its deadline passed, while no attempt was
// under way.
func (c *Call) Cancelled() {
	c.Decision, c.Reason = telemetry.NotRetryable, telemetry.ReasonCancelled
	if c.deadlinePassed() {
		c.Decision, c.Reason = telemetry.Deadline, telemetry.ReasonPassed
	}
}

// deadlinePassed reports whether the call's context has ended because of its deadline. A cancellation
// shortly before the deadline counts too: a caller above with the same deadline often cancels first.
func (c *Call) deadlinePassed() bool {
	if c.Context.Err() == nil {
		return false
	}
	d, ok := c.Context.Deadline()
	return ok && time.Until(d) < minTimerGain
}

// nextPause draws the pause before the next attempt: the one that the server asked for, after which
// the backoff starts anew (gRFC A6), or the backoff.
func (c *Call) nextPause(push pushback) time.Duration {
	if push.said && !push.stop {
		c.backoffs, c.backoff = 0, 0
		return push.after
	}
	c.backoffs++
	backoff := c.policy.Backoff()
	c.backoff = backoff.Pause(c.backoffs, c.backoff, rand.Float64()) //nolint:gosec // jitter need not be secret
	return c.backoff
}

// wait waits until the next attempt is due, after attempt a has failed. If the call is cancelled or
// its connection is closed meanwhile, it returns the error of the call.
func (c *Call) wait(a *Attempt, failed error) (again bool, err error) {
	p := parsePushback(a.receivedTrailer())
	c.telemetry.Paused(c.pause, p.said && !p.stop, failed)
	closed := false
	if c.pause > 0 {
		started := time.Now()
		ctx, stop := context.WithTimeout(c.Context, c.pause)
		closed = c.awaitClosing(ctx)
		stop()
		c.paused += time.Since(started)
	}
	if !closed && c.Context.Err() == nil {
		return true, nil
	}
	c.ended = time.Now()
	c.abandoned = true
	c.Cancelled()
	if c.Decision == telemetry.Deadline || c.Context.Err() == nil { // then the connection was closed
		return false, failed
	}
	return false, hoperr.NewCanceled()
}

// awaitClosing waits until ctx ends, and reports whether the connection was closed before.
func (c *Call) awaitClosing(ctx context.Context) bool {
	if c.conn == nil {
		<-ctx.Done()
		return false
	}
	s := c.conn.GetState()
	for s != connectivity.Shutdown && c.conn.WaitForStateChange(ctx, s) {
		s = c.conn.GetState()
	}
	return s == connectivity.Shutdown
}
