package pgstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
)

// A claim under a lease joins a transaction that will insert the record, although
// the record is not visible yet.
func TestLeasesWaitForTransactions(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	leases := newStore(t, d.pool)
	for name, tc := range map[string]struct {
		verdict idempotency.Verdict
		after   idempotency.State
	}{
		"that commits":    {commit, idempotency.Replay},
		"that rolls back": {idempotency.Verdict{}, idempotency.Run},
	} {
		claim := claimOf(name)
		claim.Owner = "under a lease"
		if _, err := d.store.Transact(t.Context(), claimOf(name), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
			b, err := leases.Begin(ctx, claim)
			if err != nil || b.State != idempotency.Join {
				t.Errorf("during a transaction %s: got %v, %v", name, b.State, err)
			}
			return tc.verdict
		}); err != nil {
			t.Error(err)
		}
		if b, err := leases.Begin(t.Context(), claim); err != nil || b.State != tc.after {
			t.Errorf("after a transaction %s: got %v, %v", name, b.State, err)
		}
	}
}

// A server with transactions and one with leases can share records, as happens
// while one replaces the other.
func TestTransactionsWaitForLeases(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	leases := newStore(t, d.pool)
	claim := claimOf("k")
	claim.Lease = 300 * time.Millisecond
	begun, err := leases.Begin(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	if err := leases.Save(t.Context(), idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}, []byte("so far")); err != nil {
		t.Error(err)
	}
	waiting := claimOf("k")
	waiting.Owner, waiting.Wait = "b", 50*time.Millisecond
	b, err := d.store.Transact(t.Context(), waiting, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit })
	if err != nil || b.State != idempotency.Join {
		t.Errorf("got %v, %v", b, err)
	}
	waiting.Wait = 0
	told := false
	b, err = d.store.Transact(t.Context(), waiting, func(_ context.Context, claimed idempotency.BeginResult) idempotency.Verdict {
		told = claimed.TakenOver && string(claimed.Checkpoint) == "so far"
		return commit
	})
	if err != nil || b.State != idempotency.Run || !b.TakenOver || !told {
		t.Errorf("after the lease: got %+v, %v; the handler was told %v", b, err, told)
	}
	if err := leases.Complete(t.Context(), idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}, nil, time.Hour); !errors.Is(err, idempotency.ErrLeaseLost) {
		t.Errorf("the zombie: %v", err)
	}
}

// clerk is a server that runs writes with a store of its own.
type clerk struct {
	store *pgstore.Store
	owner string
}

// serve runs a write or waits for another run of it, and returns its outcome.
func (c *clerk) serve(ctx context.Context, key string, handler func() idempotency.Verdict) (string, error) {
	claim := claimOf(key)
	claim.Owner = c.owner
	for {
		var v idempotency.Verdict
		b, err := c.ask(ctx, claim, func() idempotency.Verdict {
			v = handler()
			return v
		})
		switch {
		case err != nil:
			return "", err
		case b.State == idempotency.Run:
			return string(v.Outcome), nil
		case b.State == idempotency.Replay:
			return string(b.Outcome), nil
		case b.State != idempotency.Join:
			return "", fmt.Errorf("told %v", b.State)
		}
		if err := c.store.Wait(ctx, claim.ID); err != nil {
			return "", err
		}
	}
}

func (c *clerk) ask(ctx context.Context, claim idempotency.Claim, handler func() idempotency.Verdict) (idempotency.BeginResult, error) {
	if c.store.Transactional() {
		return c.store.Transact(ctx, claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return handler() })
	}
	b, err := c.store.Begin(ctx, claim)
	if err != nil || b.State != idempotency.Run {
		return b, err
	}
	v := handler()
	return b, c.store.Complete(ctx, idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: b.Fence}, v.Outcome, v.Retention)
}

// All callers of a key, in transactions or under leases and at random times, get
// one outcome of one run. Half of the keys have records that have expired.
func TestKeyRunsOnceAmongTransactionsAndLeases(t *testing.T) {
	t.Parallel()
	for name, modes := range map[string][][]pgstore.Option{
		"transactions": {{pgstore.WithTransactions(), pgstore.WithoutListen()}},
		"both":         {{pgstore.WithTransactions(), pgstore.WithoutListen()}, {pgstore.WithoutListen()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			var clerks []*clerk
			for i := range 8 {
				clerks = append(clerks, &clerk{newStore(t, d.pool, modes[i%len(modes)]...), fmt.Sprint("clerk ", i)})
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			for round := range 100 {
				key := fmt.Sprint("key ", round)
				if round%2 > 0 {
					d.expired(key)
				}
				var (
					wg   sync.WaitGroup
					runs atomic.Int32
				)
				for i, c := range clerks {
					wg.Go(func() {
						got, err := c.serve(ctx, key, func() idempotency.Verdict {
							runs.Add(1)
							return idempotency.Verdict{Keep: true, Commit: true, Outcome: []byte("of " + key), Retention: time.Hour}
						})
						if err != nil || got != "of "+key {
							t.Errorf("%s, clerk %d: got %q, %v", key, i, got, err)
						}
					})
				}
				wg.Wait()
				if n := runs.Load(); n != 1 {
					t.Fatalf("%s: it ran %d times", key, n)
				}
			}
		})
	}
}
