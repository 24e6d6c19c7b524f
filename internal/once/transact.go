package once

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// transact runs the handler in a transaction of the store, or returns the outcome of another call.
// If the transaction conflicts with another one, it runs the handler again as often as the method
// allows.
func (c *claim) transact(req any, handler grpc.UnaryHandler) (any, error) {
	for runs := 0; ; runs++ {
		reply, err := c.transactOnce(req, handler)
		if !errors.Is(err, errConflict) {
			return reply, err
		}
		if runs >= c.call.Method.Reruns || !c.pauseForConflict(runs) {
			return nil, c.retryLater(codes.Aborted, hoperr.Conflict, "the call's transaction was rolled back because of another transaction")
		}
	}
}

// errConflict says that the transaction was rolled back because of another one.
var errConflict = errors.New("hopbound: the transaction conflicts with another one")

// pauseForConflict pauses briefly, so that the other transaction can end. It returns false if the
// call ends first.
func (c *claim) pauseForConflict(runs int) bool {
	pause := time.NewTimer(rand.N(min(firstStorePause<<min(runs, 10), maxStorePause))) //nolint:gosec // jitter need not be secret
	defer pause.Stop()
	select {
	case <-pause.C:
		return c.call.Request.Err() == nil
	case <-c.call.Request.Done():
		return false
	}
}

// transactOnce runs the handler in one transaction.
func (c *claim) transactOnce(req any, handler grpc.UnaryHandler) (any, error) {
	if limit := c.waitLimit(); limit != noLimit {
		c.claim.Wait = limit
	}
	request := c.call.Request
	t := txRun{claim: c, req: req, handler: handler, started: time.Now()}
	result, failed := c.server.transactor.Transact(request, c.claim, t.run)
	step := telemetry.StepBegin
	if t.ran {
		step = telemetry.StepComplete
	}
	request.Telemetry.MeasureStep(request, step, time.Since(t.started), failed)
	if failed != nil && request.Err() == nil || errors.Is(failed, idempotency.ErrOutcomeUnknown) {
		c.storeFailed(step, failed)
	}
	return t.end(&result, failed)
}

// txRun is one run of a handler in a transaction.
type txRun struct {
	claim   *claim
	req     any
	handler grpc.UnaryHandler
	started time.Time // of the step of the store

	ran   bool
	reply any
	err   error
	held  *heldMetadata // nil if the handler was not called
	store bool          // the outcome is to be stored
}

// run runs the handler, and returns how the transaction is to end.
func (t *txRun) run(ctx context.Context, result idempotency.BeginResult) (v idempotency.Verdict) {
	c := t.claim
	request := c.call.Request
	t.ran = true
	request.Telemetry.MeasureStep(ctx, telemetry.StepBegin, time.Since(t.started), nil)
	c.takenOver = result.TakenOver
	handlerRun := c.handlerRun()
	handlerRun.Save = noCheckpoints
	if handlerRun.Checkpoint, t.err = c.lastCheckpoint(&result); t.err != nil {
		t.err = c.storeError(t.err)
		return v
	}
	defer request.Telemetry.RunStarted(request, c.takenOver)()
	c.outcome = telemetry.KeyReleased // if the handler panics
	ctx = idempotency.WithRun(ctx, handlerRun)
	t.held = holdMetadata(ctx)
	t.reply, t.err = t.handler(grpc.NewContextWithServerTransportStream(ctx, t.held), t.req)
	t.held.close()
	v.Err = t.err
	response, err := encode(t.reply, t.err)
	t.err = err
	v.Outcome, t.store = c.recordOf(response, err, t.held)
	v.Keep, v.Commit, v.Retention = t.store, t.store && err == nil, c.call.Method.Retention
	t.started = time.Now()
	return v
}

// end returns the result of the call when the transaction has ended.
func (t *txRun) end(result *idempotency.BeginResult, failed error) (any, error) {
	c := t.claim
	switch {
	case errors.Is(failed, idempotency.ErrConflict):
		return nil, errConflict
	case t.ran && t.held == nil:
		return nil, t.err
	case t.ran && !t.store: // everything was rolled back
		t.held.pass()
		return t.reply, t.err
	case errors.Is(failed, idempotency.ErrOutcomeUnknown):
		return nil, c.outcomeUnknown()
	case failed != nil && t.ran:
		c.outcome = telemetry.KeyReleased
		return nil, c.retryLater(codes.Unavailable, hoperr.StoreUnavailable, "the transaction of the call was not committed")
	case failed != nil:
		return nil, c.storeError(failed)
	case result.State == idempotency.Join:
		return nil, c.waitEnded()
	case result.State != idempotency.Run:
		if result.Waited {
			c.waits++
		}
		return c.answer(result)
	case !t.ran:
		return nil, c.storeError(errors.New("the store has not run the handler"))
	}
	c.outcomeStored(t.err)
	t.held.pass()
	return t.reply, t.err
}

func noCheckpoints(context.Context, []byte) error { return idempotency.ErrNoCheckpoints }
