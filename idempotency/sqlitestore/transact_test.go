package sqlitestore_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
)

// desk is a store with transactions, and a table that handlers write to.
type desk struct {
	*testing.T
	path  string
	store *sqlitestore.Store
	db    *sql.DB
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	path := newPath(t)
	db := open(t, path)
	d := &desk{T: t, path: path, db: db, store: newStore(t, db, sqlitestore.WithTransactions())}
	d.exec("CREATE TABLE ledger (account TEXT PRIMARY KEY, cents INTEGER)")
	return d
}

func (d *desk) exec(query string) {
	d.Helper()
	if _, err := d.db.ExecContext(d.Context(), query); err != nil {
		d.Fatal(err)
	}
}

func claimOf(key string) idempotency.Claim {
	return idempotency.Claim{ID: idempotency.NewID("", "", idempotency.Key(key)), Owner: "owner of " + key, Lease: time.Minute}
}

// pay writes an account in the transaction of ctx.
func pay(ctx context.Context, account string) error {
	tx, ok := sqlitestore.Tx(ctx)
	if !ok {
		return errors.New("no transaction")
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO ledger VALUES (?, 1)", account)
	return err
}

var (
	commit = idempotency.Verdict{Keep: true, Commit: true, Outcome: []byte("paid"), Retention: time.Hour}
	record = idempotency.Verdict{Keep: true, Outcome: []byte("failed"), Retention: time.Hour}
)

// never is a handler that must not run.
func never(t *testing.T) func(context.Context, idempotency.BeginResult) idempotency.Verdict {
	t.Helper()
	return func(context.Context, idempotency.BeginResult) idempotency.Verdict {
		t.Error("it ran again")
		return commit
	}
}

func (d *desk) paid(account string) bool {
	d.Helper()
	var n int
	if err := d.db.QueryRowContext(d.Context(), "SELECT count(*) FROM ledger WHERE account = ?", account).Scan(&n); err != nil {
		d.Fatal(err)
	}
	return n > 0
}

// transact runs a handler with a key in a transaction.
func (d *desk) transact(key string, handler func(ctx context.Context) idempotency.Verdict) error {
	d.Helper()
	b, err := d.store.Transact(d.Context(), claimOf(key), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict { return handler(ctx) })
	if err == nil && b.State != idempotency.Run {
		d.Errorf("%s: told %v, want run", key, b.State)
	}
	return err
}

// want checks what is known of a key.
func (d *desk) want(key string, state idempotency.State, outcome string) {
	d.Helper()
	claim := claimOf(key)
	claim.Owner = "another"
	b, err := d.store.Transact(d.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return idempotency.Verdict{} })
	if err != nil || b.State != state || string(b.Outcome) != outcome {
		d.Errorf("%s: got %v %q, %v, want %v %q", key, b.State, b.Outcome, err, state, outcome)
	}
}

// wantUndone checks that a transaction was rolled back, and that its error says so.
func (d *desk) wantUndone(key string, err error) {
	d.Helper()
	if err == nil || errors.Is(err, idempotency.ErrOutcomeUnknown) || d.paid(key) {
		d.Errorf("%s: got %v, paid %v, want that it was not committed", key, err, d.paid(key))
	}
	d.want(key, idempotency.Run, "")
}

func TestHandlersWritesAndOutcomeAreCommittedTogether(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for name, tc := range map[string]struct {
		verdict idempotency.Verdict
		paid    bool
		state   idempotency.State
		outcome string
	}{
		"a success":                {commit, true, idempotency.Replay, "paid"},
		"a failure that is kept":   {record, false, idempotency.Replay, "failed"},
		"a failure that is not":    {idempotency.Verdict{}, false, idempotency.Run, ""},
		"an outcome without bytes": {idempotency.Verdict{Keep: true, Commit: true, Retention: time.Hour}, true, idempotency.Replay, ""},
	} {
		err := d.transact(name, func(ctx context.Context) idempotency.Verdict {
			if err := pay(ctx, name); err != nil {
				t.Error(err)
			}
			return tc.verdict
		})
		if err != nil || d.paid(name) != tc.paid {
			t.Errorf("%s: %v, paid %v", name, err, d.paid(name))
		}
		d.want(name, tc.state, tc.outcome)
	}
	if _, ok := sqlitestore.Tx(t.Context()); ok {
		t.Error("there is a transaction outside of a handler")
	}
}

// As always in SQLite, a failed statement undoes only itself. The handler decides about its other
// writes.
func TestFailureIsStoredAfterAFailedStatement(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if err := d.transact("k", func(ctx context.Context) idempotency.Verdict {
		if pay(ctx, "k") != nil || pay(ctx, "k") == nil {
			t.Error("only the second payment must fail")
		}
		return record
	}); err != nil {
		t.Error(err)
	}
	d.want("k", idempotency.Replay, "failed")
}

func TestDeferredConstraintRefusesTheCommit(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.exec("CREATE TABLE child (account TEXT REFERENCES ledger DEFERRABLE INITIALLY DEFERRED)")
	orphan := func(ctx context.Context) error {
		tx, _ := sqlitestore.Tx(ctx)
		_, err := tx.ExecContext(ctx, "INSERT INTO child VALUES ('nonesuch')")
		return err
	}
	db, err := sql.Open("sqlite", d.path+settings+"&_pragma=foreign_keys(1)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	d.store = newStore(t, db, sqlitestore.WithTransactions())
	d.wantUndone("k", d.transact("k", func(ctx context.Context) idempotency.Verdict {
		if err := orphan(ctx); err != nil {
			t.Error(err)
		}
		return commit
	}))
	err = d.store.Observe(t.Context(), func(ctx context.Context) bool { return orphan(ctx) == nil })
	if err == nil || errors.Is(err, idempotency.ErrOutcomeUnknown) {
		t.Errorf("observed: got %v, want that it was not committed", err)
	}
}

func TestHandlerCannotCommitOrRollBackItsTx(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for how, end := range map[string]func(*sql.Tx) error{"commits": (*sql.Tx).Commit, "rolls back": (*sql.Tx).Rollback} {
		var kept *sql.Tx
		if err := d.transact(how, func(ctx context.Context) idempotency.Verdict {
			kept, _ = sqlitestore.Tx(ctx)
			if err := pay(ctx, how); err != nil {
				t.Error(err)
			}
			if err := end(kept); (err != nil) != (how == "commits") {
				t.Errorf("%s: %v", how, err)
			}
			return record
		}); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if d.paid(how) {
			t.Errorf("%s: the handler has ended the transaction", how)
		}
		d.want(how, idempotency.Replay, "failed")
		if _, err := kept.ExecContext(t.Context(), "SELECT 1"); !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("%s: the handler's Tx was used after the handler: %v", how, err)
		}
	}
}

// Rows and statements that a handler leaves open do not keep the store from the commit.
func TestHandlerMayQueryPrepareAndSetSavepoints(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if err := d.transact("k", func(ctx context.Context) idempotency.Verdict {
		tx, _ := sqlitestore.Tx(ctx)
		insert, err := tx.PrepareContext(ctx, "INSERT INTO ledger VALUES (?, ?)") //nolint:sqlclosecheck // left open
		if err != nil {
			t.Fatal(err)
		}
		for _, account := range []string{"k", "l"} {
			if _, err := insert.ExecContext(ctx, account, 2); err != nil {
				t.Error(err)
			}
		}
		if _, err := tx.ExecContext(ctx, "SAVEPOINT mine; INSERT INTO ledger VALUES ('undone', 1); ROLLBACK TO mine"); err != nil {
			t.Error(err)
		}
		query, err := tx.PrepareContext(ctx, "SELECT account FROM ledger WHERE cents = ? ORDER BY account") //nolint:sqlclosecheck // likewise
		if err != nil {
			t.Fatal(err)
		}
		rows, err := query.QueryContext(ctx, 2) //nolint:sqlclosecheck // likewise
		if err != nil {
			t.Fatal(err)
		}
		var account string
		if !rows.Next() || rows.Scan(&account) != nil || account != "k" {
			t.Errorf("read %q, %v", account, rows.Err())
		}
		if _, err := tx.QueryContext(ctx, "SELECT account FROM ledger"); err != nil { //nolint:rowserrcheck,sqlclosecheck // likewise
			t.Error(err)
		}
		return commit
	}); err != nil {
		t.Error(err)
	}
	if !d.paid("k") || !d.paid("l") || d.paid("undone") {
		t.Errorf("k %v, l %v, undone %v", d.paid("k"), d.paid("l"), d.paid("undone"))
	}
	d.want("k", idempotency.Replay, "paid")
}

// Statements after the end of the transaction would be committed without the outcome.
func TestStatementsFailAfterTheTransactionWasLost(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.exec("INSERT INTO ledger VALUES ('there', 1)")
	for how, lose := range map[string]string{
		"a rollback by SQLite":    "INSERT OR ROLLBACK INTO ledger VALUES ('there', 1)",
		"a rollback by hand":      "ROLLBACK",
		"one and a BEGIN by hand": "ROLLBACK; BEGIN",
	} {
		d.wantUndone(how, d.transact(how, func(ctx context.Context) idempotency.Verdict {
			tx, _ := sqlitestore.Tx(ctx)
			insert, err := tx.PrepareContext(ctx, "INSERT INTO ledger VALUES (?, 1)") //nolint:sqlclosecheck // left open
			if err != nil {
				t.Fatal(err)
			}
			_, _ = tx.ExecContext(ctx, lose)
			if how != "one and a BEGIN by hand" {
				_, byHand := insert.ExecContext(ctx, how)
				_, err := tx.QueryContext(ctx, "SELECT 1") //nolint:rowserrcheck,sqlclosecheck // there are none
				if byHand == nil || err == nil || pay(ctx, how) == nil {
					t.Errorf("%s: a statement ran without the transaction", how)
				}
			}
			return commit
		}))
	}
}

// A cancelled call may lose its transaction or keep it. In both cases, its writes and its outcome
// are committed together or not at all.
func TestCancelledStatementCommitsNothingWithoutTheOutcome(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	err := d.transact("k", func(ctx context.Context) idempotency.Verdict {
		if err := pay(ctx, "k"); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(ctx)
		time.AfterFunc(10*time.Millisecond, cancel)
		tx, _ := sqlitestore.Tx(ctx)
		const endless = "INSERT INTO ledger WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'n' || i, 1 FROM n"
		if _, err := tx.ExecContext(ctx, endless); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that it was cancelled", err)
		}
		_ = pay(context.WithoutCancel(ctx), "afterwards")
		return commit
	})
	if d.paid("k") != (err == nil) || d.paid("afterwards") != (err == nil) || errors.Is(err, idempotency.ErrOutcomeUnknown) {
		t.Errorf("%v; paid %v, afterwards %v", err, d.paid("k"), d.paid("afterwards"))
	}
}

// If a handler commits in SQL, its claim is committed too, so that the next run knows of the effect.
func TestCommitInSQLIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	claim := claimOf("k")
	claim.Lease = time.Nanosecond
	_, err := d.store.Transact(t.Context(), claim, func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
		tx, _ := sqlitestore.Tx(ctx)
		if err := pay(ctx, "k"); err != nil {
			t.Error(err)
		}
		if _, err := tx.ExecContext(ctx, "COMMIT"); err != nil {
			t.Error(err)
		}
		if err := pay(ctx, "alone"); err == nil {
			t.Error("a statement ran without the transaction")
		}
		return commit
	})
	if !errors.Is(err, idempotency.ErrOutcomeUnknown) || d.paid("alone") {
		t.Errorf("got %v, want that the outcome is unknown; alone %v", err, d.paid("alone"))
	}
	claim.Owner = "another"
	b, err := d.store.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit })
	if err != nil || b.State != idempotency.Run || !b.TakenOver {
		t.Errorf("the next run was told %+v, %v, want a possible effect", b, err)
	}
}

func TestHandlerThatDeletesItsRecordIsNotCommitted(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.wantUndone("k", d.transact("k", func(ctx context.Context) idempotency.Verdict {
		tx, _ := sqlitestore.Tx(ctx)
		if _, err := tx.ExecContext(ctx, "DELETE FROM hopbound_idempotency"); err != nil {
			t.Error(err)
		}
		if err := pay(ctx, "k"); err != nil {
			t.Error(err)
		}
		return commit
	}))
}

func TestPanicRollsBack(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	func() {
		defer func() {
			if p := recover(); p != "at the till" {
				t.Errorf("recovered %v", p)
			}
		}()
		_ = d.transact("k", func(ctx context.Context) idempotency.Verdict {
			if err := pay(ctx, "k"); err != nil {
				t.Error(err)
			}
			panic("at the till")
		})
	}()
	if d.paid("k") {
		t.Error("it was committed")
	}
	d.want("k", idempotency.Run, "")
}
