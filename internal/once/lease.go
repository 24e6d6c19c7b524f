package once

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/telemetry"
)

// heartbeat renews a lease while its handler runs. It uses a timer, and a goroutine only during a
// renewal.
type heartbeat struct {
	claim *claim
	lease idempotency.Lease
	stop  context.CancelCauseFunc // of the handler, when another server has taken over

	mu        sync.Mutex
	timer     *time.Timer
	ended     bool
	takenOver bool      // by another server
	renewed   time.Time // when the lease was last claimed or renewed
	failed    bool      // the last renewal had no answer
}

// keepLease renews a lease until the heartbeat ends.
func (c *claim) keepLease(lease idempotency.Lease, stop context.CancelCauseFunc) *heartbeat {
	h := &heartbeat{claim: c, lease: lease, stop: stop, renewed: time.Now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(c.server.settings.Lease/3, h.beat)
	return h
}

func (h *heartbeat) beat() {
	c, settings := h.claim, h.claim.server.settings
	started := time.Now()
	err := c.step(telemetry.StepExtend, min(settings.StoreTimeout, settings.Lease/3), func(ctx context.Context) error {
		return c.server.store.Extend(ctx, h.lease, settings.Lease)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ended:
	case errors.Is(err, idempotency.ErrLeaseLost):
		h.takenOver = true
		h.stop(errSuperseded)
	case err != nil:
		h.failed = true
		h.timer.Reset(settings.Lease / 10)
	default:
		h.failed, h.renewed = false, started
		h.timer.Reset(settings.Lease / 3)
	}
}

// cause returns the probable cause for which the lease was lost.
func (h *heartbeat) cause() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.failed:
		return telemetry.CauseStoreError
	case time.Since(h.renewed) > h.claim.server.settings.Lease:
		return telemetry.CauseLate
	default:
		return telemetry.CauseTakenOver
	}
}

// lost reports whether another server has taken over. It does not stop the renewals.
func (h *heartbeat) lost() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.takenOver
}

// end stops the heartbeat.
func (h *heartbeat) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.timer.Stop()
}
