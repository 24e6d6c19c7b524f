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
// If another transaction was in the way, it runs the handler again as often as its method
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
var errConflict = errors.New("hopbound: another transaction was in the way")

// pauseForConflict waits a little, so that the other transaction can end. It returns false
// if the call ends first.
func (c *claim) pauseForConflict(runs int) bool {
	pause := time.NewTimer(rand.N(min(firstStorePause<<runs, mostStorePause))) //nolint:gosec // jitter need not be secret
	defer pause.Stop()
	select {
	case <-pause.C:
		return c.request.Err() == nil
	case <-c.request.Done():
		return false
	}
}

func (c *claim) transactOnce(req any, handler grpc.UnaryHandler) (reply any, err error) {
	var (
		held *heldMetadata
		ran  bool
		keep bool
	)
	if patience := c.patience(); patience != unbounded {
		c.claim.Wait = patience
	}
	began := time.Now()
	begun, failed := c.transactor.Transact(&c.request, c.claim, func(ctx context.Context, claimed idempotency.Begun) (v idempotency.Verdict) {
		ran = true
		c.count.storeStep(ctx, c.storeKind, stepBegin, time.Since(began), nil)
		c.takenOver = claimed.TakenOver
		defer c.runStarted()()
		run := idempotency.HandlerRun{ID: c.claim.ID, Key: c.key, TakenOver: c.takenOver, Save: noCheckpoints}
		c.became = keyReleased // if it panics
		if run.Checkpoint, err = c.lastCheckpoint(&claimed); err != nil {
			c.became, err = "", c.refused(err)
			return v
		}
		ctx = idempotency.WithRun(ctx, run)
		held = holdMetadata(ctx)
		reply, err = handler(grpc.NewContextWithServerTransportStream(ctx, held), req)
		held.close()
		v.Err = err
		var response []byte
		response, err = c.encode(reply, err)
		v.Outcome, keep = c.record(response, err, held)
		v.Keep, v.Commit, v.Retention = keep, keep && err == nil, c.m.Retention
		began = time.Now()
		return v
	})
	step := stepBegin
	if ran {
		step = stepComplete
	}
	c.count.storeStep(&c.request, c.storeKind, step, time.Since(began), failed)
	switch {
	case errors.Is(failed, idempotency.ErrConflict):
		c.became = keyReleased
		c.storeFailed(step, failed)
		return nil, errConflict
	case ran && held == nil: // an earlier run's checkpoint cannot be read
		return nil, err
	case ran && !keep: // and all of it was rolled back
		held.pass()
		return reply, err
	case errors.Is(failed, idempotency.ErrOutcomeUnknown):
		c.storeFailed(step, failed)
		return nil, c.unknown()
	case failed != nil && ran:
		c.storeFailed(step, failed)
		c.became = keyReleased
		return nil, c.later(codes.Unavailable, ReasonStoreUnavailable, "the transaction of the call was not committed")
	case failed != nil:
		if c.request.Err() == nil {
			c.storeFailed(step, failed)
		}
		return nil, c.refused(failed)
	case begun.State == idempotency.Join:
		return nil, c.waitedInVain()
	case begun.State != idempotency.Run:
		if begun.Waited {
			c.waits++
		}
		return c.answer(begun)
	case !ran:
		return nil, c.refused(errors.New("the store has not run the handler"))
	}
	c.became = keyExecuted
	c.outcomeStored()
	c.final(err)
	held.pass()
	return reply, err
}

func noCheckpoints(context.Context, []byte) error { return idempotency.ErrNoCheckpoints }
