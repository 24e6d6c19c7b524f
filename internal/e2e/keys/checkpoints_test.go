package keys_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc/codes"
)

// A run gets the checkpoint of the run before, whose server has died or whose handler failed.
func TestRunGetsTheCheckpointOfTheRunBefore(t *testing.T) {
	t.Parallel()
	ring, err := idempotency.NewKeyRing("k", map[string][]byte{"k": make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]idempotency.Option{"plain": nil, "sealed": {idempotency.Seal(ring)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				store := harness.NewFaultyStore()
				var last uint64
				b := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
					fence, ok := idempotency.Fence(ctx)
					if !ok || fence <= last {
						t.Errorf("run %d: fence %d after %d, %v", n, fence, last, ok)
					}
					last = fence
					want := ""
					if n > 1 {
						want = fmt.Sprint("reference of run ", n-1)
					}
					if got := string(idempotency.LastCheckpoint(ctx)); got != want || idempotency.TakenOver(ctx) != (n > 1) {
						t.Errorf("run %d: checkpoint %q, taken over %v", n, got, idempotency.TakenOver(ctx))
					}
					mine := fmt.Sprint("reference of run ", n)
					if err := idempotency.Checkpoint(ctx, []byte(mine)); err != nil {
						t.Error(err)
					}
					if got := string(idempotency.LastCheckpoint(ctx)); got != mine {
						t.Errorf("run %d: its own checkpoint is %q", n, got)
					}
					switch n {
					case 1: // its server stands still
						store.Set(store.Before, "extend", harness.ErrStore)
						store.Set(store.Before, "complete", harness.ErrStore)
						time.Sleep(time.Minute)
					case 2:
						return harness.ErrUnavailable
					}
					return nil
				}}
				c := b.Open(t, store, append(opts, idempotency.LeaseTime(10*time.Second))...).Customer()
				go func() { _, _ = c.PayWithKey(t.Context(), "k", harness.Rent()) }()
				time.Sleep(30 * time.Second)
				store.Set(store.Before, "complete", nil)
				other := b.Open(t, store, opts...).Customer() // another process
				_, _ = other.PayWithKey(t.Context(), "k", harness.Rent())
				if got, err := other.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 3 of rent" {
					t.Errorf("got %q, %v", got, err)
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestCheckpointThatIsNotStoredIsAnError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ctxOfRun context.Context
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			ctxOfRun = ctx
			if err := idempotency.Checkpoint(ctx, make([]byte, 2<<20)); err == nil {
				t.Error("a checkpoint of 2 MiB was stored")
			}
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			if err := idempotency.Checkpoint(cancelled, []byte("x")); err != nil {
				t.Errorf("after a cancellation: %v", err)
			}
			return nil
		}}
		c := b.Open(t, idempotency.NewMemory()).Customer()
		if _, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
			t.Error(err)
		}
		if err := idempotency.Checkpoint(ctxOfRun, []byte("late")); !errors.Is(err, idempotency.ErrLeaseLost) {
			t.Errorf("after the outcome: %v", err)
		}
		if got := string(idempotency.LastCheckpoint(ctxOfRun)); got != "x" {
			t.Errorf("the last is %q", got)
		}
	})
}

// Without a key nobody takes over, and a transaction takes its checkpoints back.
func TestCheckpointWithoutALease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var want error
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			if err := idempotency.Checkpoint(ctx, []byte("x")); !errors.Is(err, want) || (err == nil) != (want == nil) {
				t.Errorf("got %v, want %v", err, want)
			}
			if fence, ok := idempotency.Fence(ctx); ok || fence != 0 {
				t.Errorf("fence %d", fence)
			}
			return nil
		}}
		_, _ = b.Open(t, idempotency.NewMemory()).Customer().Write(t.Context(), &testv1.WriteRequest{})
		_, _ = b.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), interceptors.WithMode(interceptors.Observe)).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		want = idempotency.ErrNoCheckpoints
		_, _ = b.Open(t, harness.TakeoverStore{Memory: idempotency.NewMemory()}).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		if n := b.Calls.Load(); n != 3 {
			t.Errorf("%d runs", n)
		}
	})
}

// tampering is a store that returns other bytes for a checkpoint.
type tampering struct{ idempotency.Store }

func (s tampering) Save(ctx context.Context, l idempotency.Lease, checkpoint []byte) error {
	changed := bytes.Clone(checkpoint)
	changed[len(changed)-1] ^= 1
	return s.Store.Save(ctx, l, changed)
}

// garbled is a store whose transactions take over a checkpoint that cannot be read.
type garbled struct{ harness.TakeoverStore }

func (garbled) Transact(ctx context.Context, _ idempotency.Claim, run func(context.Context, idempotency.BeginResult) idempotency.Verdict) (idempotency.BeginResult, error) {
	begun := idempotency.BeginResult{State: idempotency.Run, TakenOver: true, Checkpoint: []byte("garbled")}
	run(ctx, begun)
	return begun, nil
}

func TestHandlerDoesNotRunWithACorruptCheckpoint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			if err := idempotency.Checkpoint(ctx, []byte("x")); err != nil {
				t.Error(err)
			}
			return harness.ErrUnavailable
		}}
		c := b.Open(t, tampering{idempotency.NewMemory()}).Customer()
		_, _ = c.PayWithKey(t.Context(), "k", harness.Rent())
		for range 2 { // the key is not locked by a call that did not run
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := c.PayWithKey(ctx, "k", harness.Rent())
			cancel()
			harness.WantError(t, err, codes.Internal, interceptors.ReasonRecordCorrupt)
		}
		if n := b.Calls.Load(); n != 1 {
			t.Errorf("%d runs", n)
		}
		_, err := b.Open(t, garbled{harness.TakeoverStore{Memory: idempotency.NewMemory()}}).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		harness.WantError(t, err, codes.Internal, interceptors.ReasonRecordCorrupt)
		if n := b.Calls.Load(); n != 1 {
			t.Errorf("%d runs with the transaction", n)
		}
	})
}

// A goroutine of the handler's may store checkpoints while its call waits for another server.
func TestCheckpointsMayBeStoredWhileTheCallWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := harness.NewFaultyStore()
		stop := make(chan struct{})
		b := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
			if n > 1 {
				return nil
			}
			go func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Second):
						_ = idempotency.Checkpoint(ctx, []byte("x"))
					}
				}
			}()
			store.Set(store.Before, "extend", harness.ErrStore)
			time.Sleep(time.Minute)
			return harness.ErrUnavailable
		}}
		slow := b.Open(t, store).Customer()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = slow.PayWithKey(t.Context(), "k", harness.Rent())
		}()
		time.Sleep(30 * time.Second)
		id := idempotency.NewID("", "/hopbound.test.v1.TestService/Pay", "k")
		other, err := store.Store.Begin(t.Context(), idempotency.Claim{ID: id, Owner: "another server", Lease: time.Hour})
		if err != nil || other.State != idempotency.Run {
			t.Fatal(other, err)
		}
		time.Sleep(45 * time.Second) // the first call waits by now
		if err := store.Complete(t.Context(), idempotency.Lease{ID: id, Owner: "another server", Fence: other.Fence}, []byte("x"), time.Hour); err != nil {
			t.Error(err)
		}
		<-done
		close(stop)
		time.Sleep(time.Minute)
	})
}

// heldAnswer is a store whose first answer to Save is held back.
type heldAnswer struct {
	idempotency.Store
	later   atomic.Bool   // the first has been stored
	stored  chan struct{} // closed then
	release chan struct{}
}

func (s *heldAnswer) Save(ctx context.Context, l idempotency.Lease, checkpoint []byte) error {
	err := s.Store.Save(ctx, l, checkpoint)
	if !s.later.Swap(true) {
		close(s.stored)
		<-s.release
	}
	return err
}

// Of two checkpoints, the one that the store has last is the last here too.
func TestCheckpointsOfTwoGoroutinesHaveOneOrder(t *testing.T) {
	t.Parallel()
	store := &heldAnswer{Store: idempotency.NewMemory(), stored: make(chan struct{}), release: make(chan struct{})}
	var last string
	b := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		if n == 2 {
			if got := string(idempotency.LastCheckpoint(ctx)); got != last {
				t.Errorf("the run had %q last, and the next gets %q", last, got)
			}
			return nil
		}
		checkpoint := func(text string) func() {
			return func() {
				if err := idempotency.Checkpoint(ctx, []byte(text)); err != nil {
					t.Error(err)
				}
			}
		}
		var wg sync.WaitGroup
		wg.Go(checkpoint("one"))
		<-store.stored
		second := make(chan struct{})
		wg.Go(func() {
			defer close(second)
			checkpoint("two")()
		})
		select {
		case <-second: // which it must not be, before the first is answered
		case <-time.After(50 * time.Millisecond):
		}
		close(store.release)
		wg.Wait()
		last = string(idempotency.LastCheckpoint(ctx))
		return harness.ErrUnavailable
	}}
	c := b.Open(t, store).Customer()
	for range 2 {
		_, _ = c.PayWithKey(t.Context(), "k", harness.Rent())
	}
	if n := b.Calls.Load(); n != 2 {
		t.Errorf("%d runs", n)
	}
}
