package interceptors

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// transact runs the handler in a transaction of the store's, or answers with what is known.
// If the transaction conflicts with another one, it runs the handler again as often as its method
// allows.
func (c *claim) transact(req any, handler grpc.UnaryHandler) (any, error) {
	for runs := 0; ; runs++ {
		reply, err := c.transactOnce(req, handler)
		if !errors.Is(err, errConflict) {
			return reply, err
		}
		if runs >= c.m.Reruns || !c.pauseForConflict(runs) {
			return nil, c.later(codes.Aborted, ReasonConflict, "the call's transaction was rolled back because of another transaction")
		}
	}
}

// errConflict says that the transaction was rolled back because of another.
var errConflict = errors.New("hopbound: the transaction conflicts with another one")

// pauseForConflict waits a little, so that the other transaction can end. It returns false
// if the call ends first.
func (c *claim) pauseForConflict(runs int) bool {
	pause := time.NewTimer(rand.N(min(firstStorePause<<min(runs, 10), mostStorePause))) //nolint:gosec // jitter need not be secret
	defer pause.Stop()
	select {
	case <-pause.C:
		return c.request.Err() == nil
	case <-c.request.Done():
		return false
	}
}

// transactOnce runs the handler in one transaction.
func (c *claim) transactOnce(req any, handler grpc.UnaryHandler) (any, error) {
	if patience := c.patience(); patience != unbounded {
		c.claim.Wait = patience
	}
	t := txRun{claim: c, req: req, handler: handler, began: time.Now()}
	begun, failed := c.transactor.Transact(&c.request, c.claim, t.run)
	step := stepBegin
	if t.ran {
		step = stepComplete
	}
	c.count.storeStep(&c.request, c.storeKind, step, time.Since(t.began), failed)
	if failed != nil && c.request.Err() == nil || errors.Is(failed, idempotency.ErrOutcomeUnknown) {
		c.storeFailed(step, failed)
	}
	return t.end(&begun, failed)
}

// txRun is one run of a handler in a transaction.
type txRun struct {
	*claim
	req     any
	handler grpc.UnaryHandler
	began   time.Time // of the store's step

	ran   bool
	reply any
	err   error
	held  *heldMetadata // nil if the handler was not called
	keep  bool
}

// run runs the handler, and says what becomes of its transaction.
func (t *txRun) run(ctx context.Context, claimed idempotency.BeginResult) (v idempotency.Verdict) {
	t.ran = true
	t.count.storeStep(ctx, t.storeKind, stepBegin, time.Since(t.began), nil)
	t.takenOver = claimed.TakenOver
	run := idempotency.HandlerRun{ID: t.claim.claim.ID, Key: t.key, Secret: t.keyed.ChildSecret, TakenOver: t.takenOver, Save: noCheckpoints}
	if run.Checkpoint, t.err = t.lastCheckpoint(&claimed); t.err != nil {
		t.err = t.refused(t.err)
		return v
	}
	defer t.runStarted()()
	t.became = keyReleased // if it panics
	ctx = idempotency.WithRun(ctx, run)
	t.held = holdMetadata(ctx)
	t.reply, t.err = t.handler(grpc.NewContextWithServerTransportStream(ctx, t.held), t.req)
	t.held.close()
	v.Err = t.err
	response, err := t.encode(t.reply, t.err)
	t.err = err
	v.Outcome, t.keep = t.record(response, err, t.held)
	v.Keep, v.Commit, v.Retention = t.keep, t.keep && err == nil, t.m.Retention
	t.began = time.Now()
	return v
}

// end returns what the caller gets when the transaction has ended.
func (t *txRun) end(begun *idempotency.BeginResult, failed error) (any, error) {
	switch {
	case errors.Is(failed, idempotency.ErrConflict):
		return nil, errConflict
	case t.ran && t.held == nil:
		return nil, t.err
	case t.ran && !t.keep: // and all of it was rolled back
		t.held.pass()
		return t.reply, t.err
	case errors.Is(failed, idempotency.ErrOutcomeUnknown):
		return nil, t.unknown()
	case failed != nil && t.ran:
		t.became = keyReleased
		return nil, t.later(codes.Unavailable, ReasonStoreUnavailable, "the transaction of the call was not committed")
	case failed != nil:
		return nil, t.refused(failed)
	case begun.State == idempotency.Join:
		return nil, t.waitedInVain()
	case begun.State != idempotency.Run:
		if begun.Waited {
			t.waits++
		}
		return t.answer(*begun)
	case !t.ran:
		return nil, t.refused(errors.New("the store has not run the handler"))
	}
	t.became = keyExecuted
	t.outcomeStored()
	t.final(t.err)
	t.held.pass()
	return t.reply, t.err
}

func noCheckpoints(context.Context, []byte) error { return idempotency.ErrNoCheckpoints }
