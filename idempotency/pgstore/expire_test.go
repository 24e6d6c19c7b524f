package pgstore_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
)

func TestExpiredRecordsAreDeleted(t *testing.T) {
	t.Parallel()
	_, pool := newDatabase(t)
	store := newStore(t, pool, pgstore.WithExpiry(0))
	ctx := t.Context()
	if _, err := pool.Exec(ctx, `INSERT INTO hopbound_idempotency (id, owner, fence, fp_schema, fp_sum, done, until, expires)
SELECT decode(lpad(to_hex(i), 64, '0'), 'hex'), 'o', i, '', decode(repeat('00', 32), 'hex'), true, now() - interval '1 hour', now() - interval '1 hour' FROM generate_series(1, 1234) i`); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Begin(ctx, claimOf("live")); err != nil {
		t.Fatal(err)
	}
	if n, err := store.Expire(ctx); err != nil || n != 1234 {
		t.Errorf("deleted %d, %v", n, err)
	}
	var left int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM hopbound_idempotency").Scan(&left); err != nil || left != 1 {
		t.Errorf("%d are left, %v", left, err)
	}
}

// The row of an outcome is deleted when its retention has ended, also if the retention
// is shorter than the time for which a pending record is kept.
func TestRowIsDeletedAfterAShortRetention(t *testing.T) {
	t.Parallel()
	_, pool := newDatabase(t)
	store := newStore(t, pool, pgstore.WithExpiry(0))
	claim := claimOf("k")
	claim.Retention = 24 * time.Hour
	begun, err := store.Begin(t.Context(), claim)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Complete(t.Context(), idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}, []byte("outcome"), time.Microsecond); err != nil {
		t.Fatal(err)
	}
	if n, err := store.Expire(t.Context()); err != nil || n != 1 {
		t.Errorf("deleted %d, %v, want the one", n, err)
	}
}

func TestCheckReportsWhetherTheDatabaseIsMigrated(t *testing.T) {
	t.Parallel()
	_, pool := newDatabase(t)
	s, err := pgstore.New(pool, pgstore.WithSchema("bank"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Check(t.Context()); !errors.Is(err, pgstore.ErrNotMigrated) {
		t.Errorf("got %v", err)
	}
	if _, err := pool.Exec(t.Context(), "CREATE SCHEMA bank"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 5 { // processes that start together
		wg.Go(func() {
			if err := pgstore.Migrate(t.Context(), pool, pgstore.WithSchema("bank")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if b, err := s.Begin(t.Context(), claimOf("k")); err != nil || b.State != idempotency.Run {
		t.Errorf("got %v, %v", b, err)
	}
	if _, err := pgstore.New(nil, pgstore.WithSchema(""), pgstore.WithExpiry(-1), pgstore.WithSettleTimeout(0)); err == nil {
		t.Error("wrong options were taken")
	}
}
