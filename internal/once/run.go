package once

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/hoperr"
	"github.com/hopbound/hopbound/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// errSuperseded cancels the context of a handler whose lease was lost. Callers never see it.
var errSuperseded = errors.New("hopbound: another server has taken over the write")

// run runs the handler under a lease, and stores its outcome. If another server has taken over, run
// sets c.superseded, and its results must be ignored.
func (c *claim) run(lease idempotency.Lease, req any, handler grpc.UnaryHandler) (reply any, err error) {
	handlerRun := c.handlerRun()
	handlerRun.Fence, handlerRun.Checkpoint = lease.Fence, c.checkpoint
	handlerRun.Save = func(_ context.Context, checkpoint []byte) error { return c.save(lease, checkpoint) }
	ctx, cancel := context.WithCancelCause(idempotency.WithRun(c.call.Request, handlerRun))
	defer cancel(nil)
	held := holdMetadata(ctx)
	beat := c.keepLease(lease, cancel)
	ended := c.call.Request.Telemetry.RunStarted(c.call.Request, c.takenOver)
	returned := false
	defer func() {
		ended()
		if c.superseded {
			c.call.Request.Telemetry.LeaseLost(c.call.Request, c.key, beat.cause())
		}
		if !returned { // the handler has panicked or ended its goroutine
			c.outcome = telemetry.KeyReleased
			_ = c.release(lease, true)
		}
		beat.end()
	}()
	reply, err = handler(grpc.NewContextWithServerTransportStream(ctx, held), req)
	returned = true
	if beat.lost() {
		c.superseded = true
		return nil, errSuperseded
	}
	held.close()
	response, err := encode(reply, err)
	record, store := c.recordOf(response, err, held)
	if store {
		err = c.storeOutcome(lease, record, err)
	} else {
		err = c.releaseAfter(lease, err)
	}
	if c.superseded || c.outcome == telemetry.KeyUnknown {
		return nil, err
	}
	held.pass()
	return reply, err
}

// handlerRun returns the description of the run that the handler's context holds.
func (c *claim) handlerRun() idempotency.HandlerRun {
	return idempotency.HandlerRun{ID: c.claim.ID, Key: c.key, Secret: c.server.settings.ChildSecret, TakenOver: c.takenOver}
}

// releaseAfter releases the key after the handler has returned err, which is not stored. It returns
// the error of the call.
func (c *claim) releaseAfter(lease idempotency.Lease, err error) error {
	c.outcome = telemetry.KeyReleased
	if errors.Is(c.release(lease, !idempotency.IsNoEffect(err)), idempotency.ErrLeaseLost) {
		c.superseded = true
		return errSuperseded
	}
	return err
}

// storeOutcome stores the outcome of a handler that has returned err. It returns the error of the
// call.
func (c *claim) storeOutcome(lease idempotency.Lease, record []byte, err error) error {
	switch stored := c.complete(lease, record); {
	case errors.Is(stored, idempotency.ErrLeaseLost):
		c.superseded = true
		return errSuperseded
	case stored != nil:
		return c.outcomeUnknown()
	}
	c.outcomeStored(err)
	return err
}

// outcomeStored records that the outcome of a handler that has returned err is stored. It marks a
// stored failure non-retryable.
func (c *claim) outcomeStored(err error) {
	c.outcome = telemetry.KeyExecuted
	c.call.Request.Telemetry.OutcomeStored(c.call.Request)
	if err != nil {
		c.call.Request.Downstream.Overrule(-1)
	}
}

// outcomeUnknown returns the error of a call whose handler has run, if it is unknown whether the
// outcome was stored.
func (c *claim) outcomeUnknown() error {
	c.outcome = telemetry.KeyUnknown
	return c.retryLater(codes.Unavailable, hoperr.OutcomeUnknown, "the handler ran, and it is unknown whether its outcome was stored")
}

// Pauses between attempts to store an outcome.
const (
	firstStorePause = 10 * time.Millisecond
	maxStorePause   = 500 * time.Millisecond
)

// complete stores the outcome. If the store does not answer, it tries again for as long as a lease
// lasts.
func (c *claim) complete(lease idempotency.Lease, record []byte) error {
	settings := c.server.settings
	until := time.Now().Add(settings.Lease)
	pause := firstStorePause
	for {
		timeout := min(settings.StoreTimeout, max(time.Until(until), time.Millisecond))
		err := c.step(telemetry.StepComplete, timeout, func(ctx context.Context) error {
			return c.server.store.Complete(ctx, lease, record, c.call.Method.Retention)
		})
		if err == nil || errors.Is(err, idempotency.ErrLeaseLost) || time.Until(until) < pause {
			return err
		}
		time.Sleep(pause/2 + rand.N(pause/2)) //nolint:gosec // jitter need not be secret
		pause = min(2*pause, maxStorePause)
	}
}

// release releases the key, so that the next call may run the handler. The argument effect says that
// this run may have had an effect. If the release fails, the key stays claimed until the lease
// expires.
func (c *claim) release(lease idempotency.Lease, effect bool) error {
	return c.step(telemetry.StepRelease, c.server.settings.StoreTimeout, func(ctx context.Context) error {
		return c.server.store.Release(ctx, lease, effect, c.call.Method.Retention)
	})
}

// save stores a checkpoint of the handler. Several goroutines may call it at the same time, even
// after the handler has returned.
func (c *claim) save(lease idempotency.Lease, checkpoint []byte) error {
	settings := c.server.settings
	raw, err := settings.Codec.EncodeCheckpoint(c.claim.ID, checkpoint)
	if err != nil {
		return err
	}
	if len(raw) > settings.MaxOutcome {
		return fmt.Errorf("hopbound: a checkpoint of %d bytes is larger than MaxOutcome (%d)", len(raw), settings.MaxOutcome)
	}
	return c.step(telemetry.StepSave, settings.StoreTimeout, func(ctx context.Context) error {
		return c.server.store.Save(ctx, lease, raw)
	})
}
