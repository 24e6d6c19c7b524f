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
	"github.com/jackc/pgx/v5"
)

// verdict returns the verdict about a handler that has returned err.
func verdict(err error) idempotency.Verdict {
	v := commit
	v.Keep, v.Commit, v.Err = err == nil, err == nil, err
	return v
}

// ward has two doctors on call. Each may leave if another stays.
func (d *desk) ward() {
	d.Helper()
	if _, err := d.pool.Exec(d.Context(), "CREATE TABLE doctors (name text PRIMARY KEY, on_call boolean); INSERT INTO doctors VALUES ('a', true), ('b', true)"); err != nil {
		d.Fatal(err)
	}
}

// leave takes a doctor off call if another is left, after both have looked.
func leave(ctx context.Context, name string, looked func()) error {
	tx, _ := pgstore.Tx(ctx)
	var n int
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM doctors WHERE on_call").Scan(&n); err != nil {
		return err
	}
	looked()
	if n < 2 {
		return errors.New("no other doctor is on call")
	}
	_, err := tx.Exec(ctx, "UPDATE doctors SET on_call = false WHERE name = $1", name)
	return err
}

// together returns a function that returns when it was called n times.
func together(n int) func() {
	var wg sync.WaitGroup
	wg.Add(n)
	return func() {
		wg.Done()
		wg.Wait()
	}
}

// PostgreSQL cannot serialize two transactions. One of them fails with ErrConflict, and
// may be repeated.
func TestSerializationFailureIsErrConflict(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.ward()
	store := newStore(t, d.pool, pgstore.WithTransactions(), pgstore.WithIsolation(pgx.Serializable))
	looked := together(2)
	var wg sync.WaitGroup
	var committed, conflicts atomic.Int64
	for _, name := range []string{"a", "b"} {
		wg.Go(func() {
			_, err := store.Transact(t.Context(), claimOf(name), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
				return verdict(leave(ctx, name, looked))
			})
			switch {
			case err == nil:
				committed.Add(1)
			case errors.Is(err, idempotency.ErrConflict):
				conflicts.Add(1)
				_, err := store.Transact(t.Context(), claimOf(name), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
					err := leave(ctx, name, func() {})
					if err == nil {
						t.Error("no doctor is on call")
					}
					return verdict(err)
				})
				if err != nil {
					t.Error(err)
				}
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if committed.Load() != 1 || conflicts.Load() != 1 {
		t.Errorf("%d committed, %d conflicts", committed.Load(), conflicts.Load())
	}
}

// The store's own reads and writes cause no conflict.
func TestSerializableTransactionsOfDifferentKeysDoNotConflict(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, level := range []pgx.TxIsoLevel{pgx.Serializable, pgx.RepeatableRead} {
		store := newStore(t, d.pool, pgstore.WithTransactions(), pgstore.WithIsolation(level))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for n := range 25 {
					key := fmt.Sprint(level, i, ".", n)
					for _, state := range []idempotency.State{idempotency.Run, idempotency.Replay} {
						b, err := store.Transact(t.Context(), claimOf(key), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
							tx, _ := pgstore.Tx(ctx)
							_, err := tx.Exec(ctx, "INSERT INTO ledger VALUES ($1, 1)", key)
							return verdict(err)
						})
						if err != nil || b.State != state {
							t.Errorf("%s: told %v, %v", key, b.State, err)
						}
					}
				}
			})
		}
		wg.Wait()
	}
}

// Duplicates of one key wait for each other at any isolation, and the handler runs once.
func TestDuplicatesRunOnceAtAnyIsolation(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, level := range []pgx.TxIsoLevel{pgx.Serializable, pgx.RepeatableRead} {
		var ran atomic.Int64
		var wg sync.WaitGroup
		for i := range 6 {
			store := newStore(t, d.pool, pgstore.WithTransactions(), pgstore.WithIsolation(level)) // as of as many processes
			wg.Go(func() {
				claim := claimOf(string(level))
				claim.Owner = fmt.Sprint("owner ", i)
				b, err := store.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict {
					ran.Add(1)
					time.Sleep(20 * time.Millisecond)
					return commit
				})
				if err != nil || b.State != idempotency.Run && string(b.Outcome) != "paid" {
					t.Errorf("told %v %q, %v", b.State, b.Outcome, err)
				}
			})
		}
		wg.Wait()
		if ran.Load() != 1 {
			t.Errorf("%s: %d runs", level, ran.Load())
		}
	}
}

// If two transactions wait for each other, PostgreSQL rolls one of them back.
func TestDeadlockIsErrConflict(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.ward()
	locked := together(2)
	var wg sync.WaitGroup
	var conflicts atomic.Int64
	for _, names := range [][]string{{"a", "b"}, {"b", "a"}} {
		wg.Go(func() {
			_, err := d.store.Transact(t.Context(), claimOf(names[0]), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
				tx, _ := pgstore.Tx(ctx)
				for i, name := range names {
					if _, err := tx.Exec(ctx, "UPDATE doctors SET on_call = false WHERE name = $1", name); err != nil {
						return verdict(fmt.Errorf("taking %s off: %w", name, err))
					}
					if i == 0 {
						locked()
					}
				}
				return commit
			})
			if errors.Is(err, idempotency.ErrConflict) {
				conflicts.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if conflicts.Load() != 1 {
		t.Errorf("%d conflicts", conflicts.Load())
	}
}
