package pgstore_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/jackc/pgx/v5/pgxpool"
)

// bounded returns a pool of some connections to the database of another.
func bounded(t *testing.T, pool *pgxpool.Pool, most int32) *pgxpool.Pool {
	t.Helper()
	config := pool.Config()
	config.MaxConns = most
	p, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// The store takes its steps even while handlers hold all connections of the pool.
func TestStepsDoNotWaitForThePoolOfHandlers(t *testing.T) {
	t.Parallel()
	_, all := newDatabase(t)
	pool := bounded(t, all, 2)
	store := newStore(t, pool)
	for range 2 {
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	claim := claimOf("k")
	begun, err := store.Begin(ctx, claim)
	if err != nil {
		t.Fatal(err)
	}
	lease := idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}
	for _, err := range []error{store.Extend(ctx, lease, time.Minute), store.Save(ctx, lease, nil), store.Complete(ctx, lease, nil, time.Hour)} {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := store.Look(ctx, claim); err != nil {
		t.Error(err)
	}
}

// Handlers in transactions may use the pool for other queries: the store leaves one
// connection for these, however many calls there are.
func TestHandlersInTransactionsMayUseThePool(t *testing.T) {
	t.Parallel()
	_, all := newDatabase(t)
	pool := bounded(t, all, 3)
	store := newStore(t, pool, pgstore.WithTransactions())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	query := func(ctx context.Context) {
		var n int
		if err := pool.QueryRow(ctx, "SELECT 1").Scan(&n); err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := store.Transact(ctx, claimOf(strconv.Itoa(i)), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
				query(ctx)
				return commit
			})
			if err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := store.Observe(ctx, func(ctx context.Context) bool {
				if _, ok := pgstore.Tx(ctx); !ok {
					t.Error("no transaction")
				}
				query(ctx)
				return true
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := pgstore.New(bounded(t, all, 1), pgstore.WithTransactions()); err == nil {
		t.Error("a pool of one connection was taken")
	}
}
