package pgstore_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
)

// Calls that wait for records that another server's transactions have taken over hold no
// connection while they wait, so that leases of other keys are renewed.
func TestWaitersDoNotKeepLeasesFromBeingRenewed(t *testing.T) {
	t.Parallel()
	_, all := newDatabase(t)
	transactions := newStore(t, bounded(t, all, 10), pgstore.WithTransactions())
	leases := newStore(t, bounded(t, all, 4))
	const keys = 6
	for i := range keys { // of servers that have died
		c := claimOf(strconv.Itoa(i))
		c.Owner, c.Lease = "dead", time.Microsecond
		if _, err := leases.Begin(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan struct{})
	var wg, started sync.WaitGroup
	for i := range keys {
		started.Add(1)
		wg.Go(func() {
			_, err := transactions.Transact(t.Context(), claimOf(strconv.Itoa(i)), func(context.Context, idempotency.BeginResult) idempotency.Verdict {
				started.Done()
				<-ended
				return commit
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	started.Wait()
	b, err := leases.Begin(t.Context(), claimOf("mine"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for i := range keys {
		waiting.Add(1)
		wg.Go(func() {
			c := claimOf(strconv.Itoa(i))
			c.Owner = "duplicate"
			_, _ = leases.Begin(ctx, c)
			waiting.Done()
			_ = leases.Wait(ctx, c.ID)
		})
	}
	waiting.Wait()
	for range 20 { // while the waiters look again and again
		bound, stop := context.WithTimeout(t.Context(), time.Minute)
		err := leases.Extend(bound, idempotency.Lease{ID: claimOf("mine").ID, Owner: claimOf("mine").Owner, Fence: b.Fence}, time.Minute)
		stop()
		if err != nil {
			t.Errorf("another key's lease: %v", err)
			break
		}
	}
	cancel()
	close(ended)
	wg.Wait()
}

// A stored outcome is replayed while handlers hold all connections that transactions may take.
func TestReplayDoesNotWaitForHandlers(t *testing.T) {
	t.Parallel()
	_, all := newDatabase(t)
	s := newStore(t, bounded(t, all, 2), pgstore.WithTransactions())
	done := func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit }
	if _, err := s.Transact(t.Context(), claimOf("done"), done); err != nil {
		t.Fatal(err)
	}
	_, err := s.Transact(t.Context(), claimOf("runs"), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
		bound, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		if b, err := s.Transact(bound, claimOf("done"), done); err != nil || b.State != idempotency.Replay {
			t.Errorf("told %v, %v", b.State, err)
		}
		return commit
	})
	if err != nil {
		t.Error(err)
	}
}

// The effect of a run whose lease was extended for a long time is remembered for as long as any other.
func TestEffectOfALongRunIsRemembered(t *testing.T) {
	t.Parallel()
	_, pool := newDatabase(t)
	s := newStore(t, pool, pgstore.WithExpiry(0))
	c := claimOf("k")
	c.Retention = 24 * time.Hour
	b, err := s.Begin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	pass := func(hours string) {
		t.Helper()
		if _, err := pool.Exec(t.Context(), "UPDATE hopbound_idempotency SET expires = expires - interval '"+hours+" hours', until = until - interval '"+hours+" hours'"); err != nil {
			t.Fatal(err)
		}
	}
	pass("20") // in which the owner extends its lease
	if err := s.Extend(t.Context(), idempotency.Lease{ID: c.ID, Owner: c.Owner, Fence: b.Fence}, time.Minute); err != nil {
		t.Fatal(err)
	}
	pass("23") // after its server has died
	if n, err := s.Expire(t.Context()); err != nil || n != 0 {
		t.Errorf("deleted %d, %v", n, err)
	}
	c.Owner = "b"
	if b, err := s.Begin(t.Context(), c); err != nil || b.State != idempotency.Run || !b.TakenOver {
		t.Errorf("told %v, taken over %v, %v", b.State, b.TakenOver, err)
	}
	pass("26")
	if n, err := s.Expire(t.Context()); err != nil || n != 1 {
		t.Errorf("deleted %d in the end, %v", n, err)
	}
}
