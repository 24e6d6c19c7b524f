package pgstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func TestObservedWriteIsCommittedOrRolledBackAndNotRecorded(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for name, succeeds := range map[string]bool{"a success": true, "a failure": false} {
		var kept pgx.Tx
		err := d.store.Observe(t.Context(), func(ctx context.Context) bool {
			if err := pay(ctx, name); err != nil {
				t.Error(err)
			}
			kept, _ = pgstore.Tx(ctx)
			if again, _ := pgstore.Tx(ctx); again != kept {
				t.Errorf("%s: two transactions", name)
			}
			if kept.Commit(ctx) == nil || kept.Rollback(ctx) == nil {
				t.Errorf("%s: the handler has ended the transaction", name)
			}
			return succeeds
		})
		if err != nil || d.paid(name) != succeeds {
			t.Errorf("%s: %v, paid %v", name, err, d.paid(name))
		}
		if _, err := kept.Exec(t.Context(), "SELECT 1"); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("%s: used after its end: %v", name, err)
		}
	}
	var records int
	if err := d.pool.QueryRow(t.Context(), "SELECT count(*) FROM hopbound_idempotency").Scan(&records); err != nil || records != 0 {
		t.Errorf("%d records, %v", records, err)
	}
}

func TestObservedWriteThatPanicsIsRolledBack(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	func() {
		defer func() { _ = recover() }()
		_ = d.store.Observe(t.Context(), func(ctx context.Context) bool {
			_ = pay(ctx, "k")
			panic("a bug")
		})
	}()
	if held := d.pool.Stat().AcquiredConns(); d.paid("k") || held != 0 {
		t.Errorf("paid %v, %d connections held", d.paid("k"), held)
	}
}

// A handler that does not ask for a transaction needs no connection for one.
func TestObservedWriteTakesAConnectionOnlyForTx(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if err := d.store.Observe(t.Context(), func(context.Context) bool {
		if held := d.pool.Stat().AcquiredConns(); held != 0 {
			t.Errorf("%d connections held", held)
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	config := d.pool.Config()
	config.MaxConns = 2
	pair, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pair.Close)
	small := newStore(t, pair, pgstore.WithTransactions())
	for range config.MaxConns {
		conn, err := pair.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := small.Observe(cancelled, func(ctx context.Context) bool {
		if _, ok := pgstore.Tx(ctx); ok {
			t.Error("a transaction without a connection")
		}
		return true
	}); err != nil {
		t.Error(err)
	}
}

func TestObservedWriteReportsAFailedCommit(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if _, err := d.pool.Exec(t.Context(), "CREATE TABLE child (account text REFERENCES ledger DEFERRABLE INITIALLY DEFERRED)"); err != nil {
		t.Fatal(err)
	}
	for name, sql := range map[string]string{"failed": "SELECT 1/0", "deferred": "INSERT INTO child VALUES ('nonesuch')"} {
		err := d.store.Observe(t.Context(), func(ctx context.Context) bool {
			tx, _ := pgstore.Tx(ctx)
			_, _ = tx.Exec(ctx, sql)
			return true
		})
		if err == nil || errors.Is(err, idempotency.ErrOutcomeUnknown) {
			t.Errorf("%s: got %v, want that it was not committed", name, err)
		}
	}
}

func TestObservedWriteWhoseCommitIsNotAnsweredIsUnknown(t *testing.T) {
	t.Parallel()
	server, pool := newDatabase(t)
	c := newCutter(t, server.Addr)
	through := newPool(t, "postgres://postgres@"+c.listener.Addr().String()+"/postgres?sslmode=disable")
	d := newDeskAt(t, pool, through)
	word := "commit"
	err := d.store.Observe(t.Context(), func(ctx context.Context) bool {
		if err := pay(ctx, "k"); err != nil {
			t.Error(err)
		}
		c.word.Store(&word)
		return true
	})
	if !errors.Is(err, idempotency.ErrOutcomeUnknown) || !d.paid("k") {
		t.Errorf("got %v, paid %v, want that it is not known, and paid", err, d.paid("k"))
	}
}
