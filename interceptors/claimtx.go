package interceptors

import (
	"context"
	"errors"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// transact runs the handler in a transaction of the store's, or answers with
// what is known.
func (c *claim) transact(req any, handler grpc.UnaryHandler) (reply any, err error) {
	var (
		held *heldMetadata
		ran  bool
		keep bool
	)
	if patience := c.patience(); patience != unbounded {
		c.claim.Wait = patience
	}
	began := time.Now()
	begun, failed := c.transactor.Transact(&c.request, c.claim, func(ctx context.Context) (v idempotency.Verdict) {
		ran = true
		c.count.storeStep(ctx, c.storeKind, stepBegin, time.Since(began), nil)
		c.takenOver = idempotency.TakenOver(ctx)
		ctx = idempotency.WithRunning(ctx, c.claim.ID, c.key, c.takenOver)
		held = holdMetadata(ctx)
		c.became = keyReleased // if it panics
		reply, err = handler(grpc.NewContextWithServerTransportStream(ctx, held), req)
		held.close()
		v.Outcome, keep = c.record(reply, err, held)
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
	case ran && !keep: // and all of it was rolled back
		held.pass()
		return reply, err
	case errors.Is(failed, idempotency.ErrOutcomeUnknown):
		return nil, c.unknown(failed)
	case failed != nil && ran:
		c.traceStoreError(failed)
		c.became = keyReleased
		return nil, c.later(codes.Unavailable, ReasonStoreUnavailable, "the transaction of the call was not committed")
	case failed != nil:
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
	c.final(err)
	held.pass()
	return reply, err
}
