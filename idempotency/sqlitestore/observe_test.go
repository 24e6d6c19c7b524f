package sqlitestore_test

import (
	"context"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
)

func TestObservedWriteIsCommittedOrRolledBackAndNotRecorded(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for name, succeeds := range map[string]bool{"a success": true, "a failure": false} {
		err := d.store.Observe(t.Context(), func(ctx context.Context) bool {
			if err := pay(ctx, name); err != nil {
				t.Error(err)
			}
			tx, _ := sqlitestore.Tx(ctx)
			if again, _ := sqlitestore.Tx(ctx); again != tx {
				t.Errorf("%s: two transactions", name)
			}
			return succeeds
		})
		if err != nil || d.paid(name) != succeeds {
			t.Errorf("%s: %v, paid %v", name, err, d.paid(name))
		}
		d.want(name, idempotency.Run, "")
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
	if d.paid("k") {
		t.Error("it was committed")
	}
	d.want("k", idempotency.Run, "") // the lock is free
}

func TestObservedWriteTakesTheLockOnlyForTx(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if err := d.store.Observe(t.Context(), func(ctx context.Context) bool {
		d.exec("INSERT INTO ledger VALUES ('meanwhile', 1)")
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if _, ok := sqlitestore.Tx(ended); ok {
			t.Error("there is a transaction for a context that has ended")
		}
		return true
	}); err != nil {
		t.Error(err)
	}
	var kept context.Context
	if err := d.store.Observe(t.Context(), func(ctx context.Context) bool {
		kept = ctx
		return true
	}); err != nil {
		t.Error(err)
	}
	if _, ok := sqlitestore.Tx(kept); ok {
		t.Error("a transaction has begun after the handler")
	}
}
