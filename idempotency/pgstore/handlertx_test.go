package pgstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/jackc/pgx/v5"
)

// Only the store can end the transaction.
func TestHandlerCannotEndTheTransaction(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	var kept pgx.Tx
	_, err := d.store.Transact(t.Context(), claimOf("polite"), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
		kept, _ = pgstore.Tx(ctx)
		if kept.Commit(ctx) == nil || kept.Rollback(ctx) == nil {
			t.Error("the handler has ended the transaction")
		}
		nested, err := kept.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = nested.Exec(ctx, "INSERT INTO ledger VALUES ('undone', 1)")
		if err := nested.Rollback(ctx); err != nil {
			t.Error(err)
		}
		if err := pay(ctx, "polite"); err != nil {
			t.Error(err)
		}
		return commit
	})
	if err != nil || !d.paid("polite") || d.paid("undone") {
		t.Errorf("%v; polite %v, undone %v", err, d.paid("polite"), d.paid("undone"))
	}
	if _, err := kept.Exec(t.Context(), "SELECT 1"); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("used after its end: %v", err)
	}
	if err := kept.QueryRow(t.Context(), "SELECT 1").Scan(); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("used after its end: %v", err)
	}
	for name, end := range map[string]string{
		"rolled back":            "ROLLBACK",
		"rolled back and begun":  "ROLLBACK; BEGIN",
		"to before its own mark": "ROLLBACK TO SAVEPOINT hopbound_7c1e9f40; ROLLBACK; BEGIN",
		"in another schema":      "CREATE SCHEMA other; CREATE TABLE other.hopbound_idempotency (LIKE hopbound_idempotency INCLUDING ALL); SET LOCAL search_path = other, public",
	} {
		_, err := d.store.Transact(t.Context(), claimOf(name), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
			tx, _ := pgstore.Tx(ctx)
			if _, err := tx.Conn().Exec(ctx, end); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			_, _ = tx.Exec(ctx, "INSERT INTO ledger VALUES ($1, 1) ON CONFLICT DO NOTHING", name+" and then")
			return commit
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if committed := name == "rolled back"; committed != errors.Is(err, idempotency.ErrOutcomeUnknown) {
			t.Errorf("%s: %v", name, err)
		}
		if name != "rolled back" && d.paid(name+" and then") {
			t.Errorf("%s: what came after was committed without an outcome", name)
		}
	}
}

// If the handler of a run that took over a record deletes the record, or ends
// the transaction, nothing is committed.
func TestHandlerThatDeletesTheRecordItTookOverIsNotCommitted(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, how := range []string{"DELETE FROM hopbound_idempotency", "COMMIT; BEGIN"} {
		d.expired(how)
		_, err := d.store.Transact(t.Context(), claimOf(how), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
			tx, _ := pgstore.Tx(ctx)
			if _, err := tx.Conn().Exec(ctx, how); err != nil {
				t.Error(err)
			}
			if err := pay(ctx, how); err != nil {
				t.Error(err)
			}
			return commit
		})
		if err == nil || errors.Is(err, idempotency.ErrOutcomeUnknown) || d.paid(how) {
			t.Errorf("%s: %v; paid %v", how, err, d.paid(how))
		}
	}
}
