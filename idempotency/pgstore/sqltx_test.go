package pgstore_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
)

// payBySQL writes an account in the transaction of ctx, by database/sql.
func payBySQL(ctx context.Context, account string) error {
	tx, ok := pgstore.SQLTx(ctx)
	if !ok {
		return errors.New("no transaction")
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO ledger VALUES ($1, 1)", account)
	return err
}

// What a handler writes by database/sql is committed with the outcome, or not at all.
func TestSQLTxCommitsWithTheOutcome(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	run := func(key string, handler func(ctx context.Context) error) error {
		_, err := d.store.Transact(t.Context(), claimOf(key), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
			return verdict(handler(ctx))
		})
		return err
	}
	observe := func(_ string, handler func(ctx context.Context) error) error {
		return d.store.Observe(t.Context(), func(ctx context.Context) bool { return handler(ctx) == nil })
	}
	for name, run := range map[string]func(string, func(context.Context) error) error{"claimed": run, "observed": observe} {
		var left *sql.Tx
		if err := run(name, func(ctx context.Context) error {
			left, _ = pgstore.SQLTx(ctx)
			if again, _ := pgstore.SQLTx(ctx); again != left {
				t.Error("two transactions of database/sql")
			}
			if err := errors.Join(payBySQL(ctx, name), pay(ctx, name+" by pgx")); err != nil {
				return err
			}
			rows, err := left.QueryContext(ctx, "SELECT account FROM ledger WHERE account LIKE $1 ORDER BY 1", name+"%") //nolint:sqlclosecheck // nobody closes it
			if err != nil {
				return err
			}
			for i := 0; rows.Next(); i++ {
				var account string
				if err := rows.Scan(&account); err != nil || account != []string{name, name + " by pgx"}[i] {
					t.Errorf("row %d is %q, %v", i, account, err)
				}
			}
			statement, err := left.PrepareContext(ctx, "SELECT $1::text") //nolint:sqlclosecheck // nobody closes it
			if err != nil {
				return errors.Join(err, rows.Err())
			}
			_, err = statement.QueryContext(ctx, "rows that nobody closes") //nolint:sqlclosecheck,rowserrcheck // likewise
			return errors.Join(err, rows.Err())
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !d.paid(name) || !d.paid(name+" by pgx") {
			t.Errorf("%s: what was written is not there", name)
		}
		if _, err := left.ExecContext(t.Context(), "SELECT 1"); !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("%s: after the handler: %v", name, err)
		}
		if err := left.Commit(); !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("%s: committed after the handler: %v", name, err)
		}

		failed := errors.New("failed")
		if err := run(name+" fails", func(ctx context.Context) error {
			return errors.Join(payBySQL(ctx, name+" fails"), failed)
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d.paid(name + " fails") {
			t.Errorf("%s: what was rolled back is there", name)
		}
		// Neither ends the store's transaction.
		for how, end := range map[string]func(*sql.Tx) error{" commits": (*sql.Tx).Commit, " rolls back": (*sql.Tx).Rollback} {
			if err := run(name+how, func(ctx context.Context) error {
				tx, _ := pgstore.SQLTx(ctx)
				err := payBySQL(ctx, name+how)
				if ended := end(tx); (ended != nil) != (how == " commits") {
					t.Errorf("%s%s: %v", name, how, ended)
				}
				return err
			}); err != nil {
				t.Errorf("%s%s: %v", name, how, err)
			}
			if !d.paid(name + how) {
				t.Errorf("%s%s: it is not there", name, how)
			}
		}
	}
	if _, ok := pgstore.SQLTx(t.Context()); ok {
		t.Error("a transaction outside of a handler")
	}
}
