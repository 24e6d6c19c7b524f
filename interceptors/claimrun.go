package interceptors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// errOutvoted cancels the context of a handler whose lease was lost. No caller is
// told.
var errOutvoted = errors.New("hopbound: another server has taken over the write")

// run runs the handler under a lease, and stores its outcome. If another has
// taken over, it says so in c, and what it returns is void.
func (c *claim) run(lease idempotency.Lease, req any, handler grpc.UnaryHandler) (reply any, err error) {
	ctx, cancel := context.WithCancelCause(idempotency.WithRun(&c.request, idempotency.HandlerRun{
		ID: c.claim.ID, Key: c.key, Secret: c.keyed.ChildSecret, TakenOver: c.takenOver, Fence: lease.Fence, Checkpoint: c.checkpoint,
		Save: func(_ context.Context, checkpoint []byte) error { return c.save(lease, checkpoint) },
	}))
	defer cancel(nil)
	held := holdMetadata(ctx)
	beat := c.keepLease(lease, cancel)
	ended := c.runStarted()
	returned := false
	defer func() {
		ended()
		if c.outvoted {
			c.leaseWasLost(beat.cause())
		}
		if !returned { // it has panicked or ended its goroutine
			c.became = keyReleased
			_ = c.release(lease, true)
		}
		beat.end()
	}()
	reply, err = handler(grpc.NewContextWithServerTransportStream(ctx, held), req)
	returned = true
	if beat.lost() {
		c.outvoted = true
		return nil, errOutvoted
	}
	held.close()
	response, err := c.encode(reply, err)
	record, keep := c.record(response, err, held)
	if !keep {
		c.became = keyReleased
		if errors.Is(c.release(lease, !idempotency.IsNoEffect(err)), idempotency.ErrLeaseLost) {
			c.outvoted = true
			return nil, errOutvoted
		}
		held.pass()
		return reply, err
	}
	switch stored := c.complete(lease, record); {
	case errors.Is(stored, idempotency.ErrLeaseLost):
		c.outvoted = true
		return nil, errOutvoted
	case stored != nil:
		return nil, c.unknown()
	}
	c.became = keyExecuted
	c.outcomeStored()
	c.final(err)
	held.pass()
	return reply, err
}

// final tells the caller that a failure is kept, so that nobody asks for it again.
func (c *claim) final(err error) {
	if err != nil {
		c.request.downstream.overrule(-1)
	}
}

// unknown returns the error of a call whose handler has run, and of which nobody
// can say whether that was stored.
func (c *claim) unknown() error {
	c.became = keyUnknown
	return c.later(codes.Unavailable, ReasonOutcomeUnknown, "the call was made, and whether its outcome was stored is not known")
}

// Pauses between attempts to store an outcome.
const (
	firstStorePause = 10 * time.Millisecond
	mostStorePause  = 500 * time.Millisecond
)

// complete stores the outcome, and repeats that for as long as a lease if it gets
// no answer.
func (c *claim) complete(lease idempotency.Lease, record []byte) error {
	until := time.Now().Add(c.keyed.Lease)
	pause := firstStorePause
	for {
		timeout := min(c.keyed.StoreTimeout, max(time.Until(until), time.Millisecond))
		err := c.step(stepComplete, timeout, func(ctx context.Context) error {
			return c.store.Complete(ctx, lease, record, c.m.Retention)
		})
		if err == nil || errors.Is(err, idempotency.ErrLeaseLost) || time.Until(until) < pause {
			return err
		}
		time.Sleep(pause/2 + rand.N(pause/2)) //nolint:gosec // jitter need not be secret
		pause = min(2*pause, mostStorePause)
	}
}

// release gives the key up, so that the next call may run the handler, and says whether
// this run may have had an effect. If the release fails, the lease runs out.
func (c *claim) release(lease idempotency.Lease, effect bool) error {
	return c.step(stepRelease, c.keyed.StoreTimeout, func(ctx context.Context) error {
		return c.store.Release(ctx, lease, effect, c.m.Retention)
	})
}

// save stores a checkpoint of the handler's. The handler's goroutines may use it at the same
// time, and after the handler has returned.
func (c *claim) save(lease idempotency.Lease, checkpoint []byte) error {
	raw, err := c.keyed.Codec.EncodeCheckpoint(c.claim.ID, checkpoint)
	if err != nil {
		return err
	}
	if len(raw) > c.keyed.MaxOutcome {
		return fmt.Errorf("hopbound: a checkpoint of %d bytes is larger than MaxOutcome (%d)", len(raw), c.keyed.MaxOutcome)
	}
	return c.step(stepSave, c.keyed.StoreTimeout, func(ctx context.Context) error {
		return c.store.Save(ctx, lease, raw)
	})
}

// step takes a step of the store that the call's end does not cut short, and
// measures it. A timeout of 0 leaves it to the wait that the call has.
func (c *claim) step(name string, timeout time.Duration, take func(ctx context.Context) error) error {
	began := time.Now()
	var ctx context.Context
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(&c.request), timeout)
		defer cancel()
	} else { // which the heartbeat and checkpoints of another goroutine must not read
		ctx = c.waiting
	}
	err := take(ctx)
	c.count.storeStep(ctx, c.storeKind, name, time.Since(began), err)
	if isStoreFailure(name, err) {
		c.storeFailed(name, err)
	}
	return err
}

// heartbeat extends a lease while its handler runs. It costs a timer, and a
// goroutine only while it beats.
type heartbeat struct {
	claim *claim
	lease idempotency.Lease
	stop  context.CancelCauseFunc // of the handler, when another has taken over

	mu      sync.Mutex
	timer   *time.Timer
	ended   bool
	taken   bool      // another has taken over
	renewed time.Time // when it was last claimed or extended
	failed  bool      // the last try to extend it had no answer
}

// keepLease extends a lease until the heartbeat ends.
func (c *claim) keepLease(lease idempotency.Lease, stop context.CancelCauseFunc) *heartbeat {
	h := &heartbeat{claim: c, lease: lease, stop: stop, renewed: time.Now()}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(c.keyed.Lease/3, h.beat)
	return h
}

func (h *heartbeat) beat() {
	c := h.claim
	began := time.Now()
	err := c.step(stepExtend, min(c.keyed.StoreTimeout, c.keyed.Lease/3), func(ctx context.Context) error {
		return c.store.Extend(ctx, h.lease, c.keyed.Lease)
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.ended:
	case errors.Is(err, idempotency.ErrLeaseLost):
		h.taken = true
		h.stop(errOutvoted)
	case err != nil:
		h.failed = true
		h.timer.Reset(c.keyed.Lease / 10)
	default:
		h.failed, h.renewed = false, began
		h.timer.Reset(c.keyed.Lease / 3)
	}
}

// cause returns why a lease was lost.
func (h *heartbeat) cause() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.failed:
		return causeStoreError
	case time.Since(h.renewed) > h.claim.keyed.Lease:
		return causeLate
	default:
		return causeTakenOver
	}
}

// lost reports whether the lease is lost to another. It goes on being extended.
func (h *heartbeat) lost() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.taken
}

// end stops the heartbeat.
func (h *heartbeat) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	h.timer.Stop()
}
