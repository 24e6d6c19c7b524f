package sqlitestore_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
)

// other returns a store for the same file, as another process has one.
func (d *desk) other() *sqlitestore.Store {
	d.Helper()
	return newStore(d.T, open(d.T, d.path), sqlitestore.WithTransactions())
}

func TestDuplicatesWaitForTheTransactionWithinTheirLimit(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	other := d.other()
	var wg sync.WaitGroup
	err := d.transact("k", func(context.Context) idempotency.Verdict {
		for name, s := range map[string]*sqlitestore.Store{"the same store": d.store, "another": other} {
			claim := claimOf("k")
			claim.Owner, claim.Wait = name, 20*time.Millisecond
			b, err := s.Transact(t.Context(), claim, never(t))
			if err != nil || b.State != idempotency.Join || !b.Waited {
				t.Errorf("%s: got %+v, %v", name, b, err)
			}
			claim.Wait = 0
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := s.Transact(ended, claim, never(t)); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: got %v, want that the context was cancelled", name, err)
			}
			wg.Go(func() {
				b, err := s.Transact(t.Context(), claim, never(t))
				if err != nil || b.State != idempotency.Replay {
					t.Errorf("%s: got %+v, %v", name, b, err)
				}
			})
		}
		return commit
	})
	wg.Wait()
	if err != nil {
		t.Error(err)
	}
}

func TestDuplicatesRunOnceAcrossStores(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	stores := []*sqlitestore.Store{d.store, d.other()}
	for round := range 10 {
		var ran atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				claim := claimOf(strconv.Itoa(round))
				claim.Owner = fmt.Sprint("owner ", i)
				b, err := stores[i%2].Transact(t.Context(), claim, func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
					ran.Add(1)
					if err := pay(ctx, strconv.Itoa(round)); err != nil {
						t.Error(err)
					}
					return commit
				})
				if err != nil || b.State != idempotency.Run && string(b.Outcome) != "paid" {
					t.Errorf("told %v %q, %v", b.State, b.Outcome, err)
				}
			})
		}
		wg.Wait()
		if ran.Load() != 1 {
			t.Errorf("round %d: %d runs", round, ran.Load())
		}
	}
}

// A server without transactions may share the file, as during a rolling deploy.
func TestTransactionWaitsForALease(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	claim := claimOf("k")
	result, err := d.store.Begin(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	another := claim
	another.Owner, another.Wait = "another", 20*time.Millisecond
	if b, err := d.store.Transact(t.Context(), another, never(t)); err != nil || b.State != idempotency.Join || !b.Waited {
		t.Errorf("got %+v, %v", b, err)
	}
	another.Wait = 0
	var wg sync.WaitGroup
	wg.Go(func() {
		b, err := d.store.Transact(t.Context(), another, never(t))
		if err != nil || b.State != idempotency.Replay {
			t.Errorf("got %+v, %v", b, err)
		}
	})
	if err := d.store.Complete(t.Context(), idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: result.Fence}, []byte("paid"), time.Hour); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// A call that waits for its turn holds no connection, so that the handler that runs can use the pool.
func TestHandlersMayReadWithThePool(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.db.SetMaxOpenConns(2)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := d.transact(strconv.Itoa(i), func(context.Context) idempotency.Verdict {
				_ = d.paid("another")
				return commit
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	d.db.SetMaxOpenConns(1)
	if _, err := sqlitestore.New(d.db, sqlitestore.WithTransactions()); err == nil {
		t.Error("a pool of one connection was taken")
	}
}
