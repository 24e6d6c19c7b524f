package pgstore_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/jackc/pgx/v5/pgxpool"
)

// desk is a store with transactions, and a table that handlers write to.
type desk struct {
	*testing.T
	store *pgstore.Store
	pool  *pgxpool.Pool // past whatever the store's connections go through
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	_, pool := newDatabase(t)
	return newDeskAt(t, pool, pool)
}

func newDeskAt(t *testing.T, pool, through *pgxpool.Pool) *desk {
	t.Helper()
	d := &desk{T: t, pool: pool, store: newStore(t, through, pgstore.WithTransactions(), pgstore.WithSettleTimeout(2*time.Second))}
	if _, err := pool.Exec(t.Context(), "CREATE TABLE ledger (account text PRIMARY KEY, cents int, CONSTRAINT late CHECK (true))"); err != nil {
		t.Fatal(err)
	}
	return d
}

func claimOf(key string) idempotency.Claim {
	return idempotency.Claim{ID: idempotency.NewID("", "", idempotency.Key(key)), Owner: "owner of " + key, Lease: time.Minute}
}

// pay writes an account in the transaction of ctx.
func pay(ctx context.Context, account string) error {
	tx, ok := pgstore.Tx(ctx)
	if !ok {
		return errors.New("no transaction")
	}
	_, err := tx.Exec(ctx, "INSERT INTO ledger VALUES ($1, 1)", account)
	return err
}

var (
	commit = idempotency.Verdict{Keep: true, Commit: true, Outcome: []byte("paid"), Retention: time.Hour}
	record = idempotency.Verdict{Keep: true, Outcome: []byte("failed"), Retention: time.Hour}
)

func (d *desk) paid(account string) bool {
	d.Helper()
	var n int
	if err := d.pool.QueryRow(d.Context(), "SELECT count(*) FROM ledger WHERE account = $1", account).Scan(&n); err != nil {
		d.Fatal(err)
	}
	return n > 0
}

// expired leaves a record whose retention has ended.
func (d *desk) expired(key string) {
	d.Helper()
	brief := commit
	brief.Retention = time.Microsecond
	if _, err := d.store.Transact(d.Context(), claimOf(key), func(context.Context, idempotency.BeginResult) idempotency.Verdict { return brief }); err != nil {
		d.Fatal(err)
	}
	const until = "SELECT count(*), pg_sleep(0.001) FROM hopbound_idempotency WHERE id = $1 AND until < clock_timestamp() GROUP BY id"
	id := claimOf(key).ID
	for rows := 0; rows == 0; {
		if err := d.pool.QueryRow(d.Context(), until, id[:]).Scan(&rows, nil); err != nil {
			d.Fatal(err)
		}
	}
}

// want checks what is known of a key.
// awaitWaiter returns when somebody waits for a lock.
func (d *desk) awaitWaiter() {
	d.Helper()
	for waiting := false; !waiting; {
		const sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted), pg_sleep(0.001)"
		if err := d.pool.QueryRow(d.Context(), sql).Scan(&waiting, nil); err != nil {
			d.Fatal(err)
		}
	}
}

func (d *desk) want(key string, state idempotency.State, outcome string) {
	d.Helper()
	claim := claimOf(key)
	claim.Owner = "another"
	b, err := d.store.Transact(d.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return idempotency.Verdict{} })
	if err != nil || b.State != state || string(b.Outcome) != outcome {
		d.Errorf("%s: got %v %q, %v, want %v %q", key, b.State, b.Outcome, err, state, outcome)
	}
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
		b, err := d.store.Transact(t.Context(), claimOf(name), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
			if err := pay(ctx, name); err != nil {
				t.Error(err)
			}
			return tc.verdict
		})
		if err != nil || b.State != idempotency.Run {
			t.Errorf("%s: got %v, %v", name, b.State, err)
		}
		if d.paid(name) != tc.paid {
			t.Errorf("%s: paid %v", name, !tc.paid)
		}
		d.want(name, tc.state, tc.outcome)
	}
}

// A failure is stored even if the handler's statements have failed. A success that
// cannot be committed is not stored.
func TestFailedTransactionStoresOnlyFailures(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	fail := func(ctx context.Context) {
		tx, _ := pgstore.Tx(ctx)
		if _, err := tx.Exec(ctx, "SELECT 1/0"); err == nil {
			t.Error("it has not failed")
		}
	}
	if _, err := d.store.Transact(t.Context(), claimOf("kept"), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict { fail(ctx); return record }); err != nil {
		t.Error(err)
	}
	d.want("kept", idempotency.Replay, "failed")
	_, err := d.store.Transact(t.Context(), claimOf("success"), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict { fail(ctx); return commit })
	if err == nil || errors.Is(err, idempotency.ErrOutcomeUnknown) {
		t.Errorf("got %v, want that it was not committed", err)
	}
	d.want("success", idempotency.Run, "")
	if _, err := d.pool.Exec(t.Context(), "CREATE TABLE child (account text REFERENCES ledger DEFERRABLE INITIALLY DEFERRED)"); err != nil {
		t.Fatal(err)
	}
	_, err = d.store.Transact(t.Context(), claimOf("deferred"), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
		tx, _ := pgstore.Tx(ctx)
		if _, err := tx.Exec(ctx, "INSERT INTO child VALUES ('nonesuch')"); err != nil {
			t.Error(err)
		}
		return commit
	})
	if err == nil || errors.Is(err, idempotency.ErrOutcomeUnknown) {
		t.Errorf("got %v, want that the constraint refused it", err)
	}
	d.want("deferred", idempotency.Run, "")
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
		_, _ = d.store.Transact(t.Context(), claimOf("k"), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
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

// Duplicates wait for the transaction, on its lock if it runs in another process,
// and for no longer than allowed.
func TestDuplicatesWaitForTheTransaction(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	other := newStore(t, d.pool, pgstore.WithTransactions())
	running, finish := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := d.store.Transact(t.Context(), claimOf("k"), func(context.Context, idempotency.BeginResult) idempotency.Verdict {
			close(running)
			<-finish
			return commit
		}); err != nil {
			t.Error(err)
		}
	})
	<-running
	for name, s := range map[string]*pgstore.Store{"the same store": d.store, "another": other} {
		claim := claimOf("k")
		claim.Owner, claim.Wait = name, 100*time.Millisecond
		b, err := s.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict {
			t.Error("it ran twice")
			return commit
		})
		if err != nil || b.State != idempotency.Join || !b.Waited {
			t.Errorf("%s: got %+v, %v", name, b, err)
		}
		claim.Wait = 0
		wg.Go(func() {
			b, err := s.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict {
				t.Error("it ran twice")
				return commit
			})
			if err != nil || b.State != idempotency.Replay { // whether it had to wait depends on when it is begun
				t.Errorf("%s: got %+v, %v", name, b, err)
			}
		})
	}
	close(finish)
	wg.Wait()
}

// A transaction claims a record that has expired. Others wait for this transaction
// too, for no longer than allowed.
func TestDuplicatesWaitForATransactionThatTakesOver(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	other := newStore(t, d.pool, pgstore.WithTransactions())
	d.expired("k")
	b, err := d.store.Transact(t.Context(), claimOf("k"), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
		claim := claimOf("k")
		claim.Owner, claim.Wait = "another", 50*time.Millisecond
		b, err := other.Transact(ctx, claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict {
			t.Error("it ran twice")
			return commit
		})
		if err != nil || b.State != idempotency.Join {
			t.Errorf("got %v, %v", b.State, err)
		}
		tx, _ := pgstore.Tx(ctx)
		var timeout string
		if err := tx.QueryRow(ctx, "SHOW lock_timeout").Scan(&timeout); err != nil || timeout != "0" {
			t.Errorf("the handler's lock_timeout is %s, %v", timeout, err)
		}
		return commit
	})
	if err != nil || b.State != idempotency.Run || b.TakenOver {
		t.Errorf("got %+v, %v", b, err)
	}
	d.want("k", idempotency.Replay, "paid")
}

// slowCommit makes a commit take longer than a client needs to ask whether it took
// effect.
const slowCommit = `
CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON ledger DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (NEW.account = 'slow') EXECUTE FUNCTION dawdle()`

// When the connection is cut at the commit, the store finds out whether the commit
// took effect. Only if it cannot is the outcome unknown.
func TestCommitWithoutAnAnswerIsResolved(t *testing.T) {
	t.Parallel()
	server, pool := newDatabase(t)
	c := newCutter(t, server.Addr)
	// Statements that are not prepared are sent as text, among which the proxy finds
	// its word.
	through := newPool(t, strings.Replace(server.URL(), server.Addr, c.listener.Addr().String(), 1)+"&default_query_exec_mode=exec")
	d := newDeskAt(t, pool, through)
	run := func(key string, before bool, after func()) error {
		word := "COMMIT"
		mend := time.AfterFunc(time.Hour, func() { c.word.Store(nil) })
		defer mend.Stop()
		c.before.Store(before)
		_, err := d.store.Transact(t.Context(), claimOf(key), func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
			if err := pay(ctx, key); err != nil {
				t.Error(err)
			}
			c.word.Store(&word)
			if after != nil {
				after()
			} else {
				mend.Reset(100 * time.Millisecond)
			}
			return commit
		})
		c.word.Store(nil)
		return err
	}
	if err := run("answer lost", false, nil); err != nil || !d.paid("answer lost") {
		t.Errorf("%v, paid %v", err, d.paid("answer lost"))
	}
	d.want("answer lost", idempotency.Replay, "paid")
	if err := run("never sent", true, nil); err == nil || errors.Is(err, idempotency.ErrOutcomeUnknown) || d.paid("never sent") {
		t.Errorf("%v, paid %v", err, d.paid("never sent"))
	}
	d.want("never sent", idempotency.Run, "")
	if _, err := pool.Exec(t.Context(), slowCommit); err != nil {
		t.Fatal(err)
	}
	c.hasty.Store(true)
	if err := run("slow", false, nil); err != nil || !d.paid("slow") {
		t.Errorf("%v, paid %v", err, d.paid("slow"))
	}
	d.want("slow", idempotency.Replay, "paid")
	c.hasty.Store(false)
	every := "" // every packet, so that nothing can be found out
	err := run("unknown", true, func() { c.word.Store(&every) })
	if !errors.Is(err, idempotency.ErrOutcomeUnknown) {
		t.Errorf("got %v, want that it is not known", err)
	}
}

// A session may have another default isolation, with which a transaction would not
// see what was committed while it waited.
func TestTransactionsAreReadCommitted(t *testing.T) {
	t.Parallel()
	server, pool := newDatabase(t)
	d := newDeskAt(t, pool, newPool(t, server.URL()+"&default_transaction_isolation=serializable"))
	other := newStore(t, newPool(t, server.URL()+"&default_transaction_isolation=repeatable%20read"), pgstore.WithTransactions())
	claim := claimOf("a")
	var running sync.WaitGroup
	begun, err := d.store.Transact(t.Context(), claim, func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
		tx, _ := pgstore.Tx(ctx)
		var isolation string
		if err := tx.QueryRow(ctx, "SHOW transaction_isolation").Scan(&isolation); err != nil || isolation != "read committed" {
			t.Errorf("the isolation is %q, %v", isolation, err)
		}
		running.Go(func() { // and waits, in another process
			claim.Owner = "another"
			b, err := other.Transact(t.Context(), claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict {
				t.Error("it ran twice")
				return commit
			})
			if err != nil || b.State != idempotency.Replay || !b.Waited {
				t.Errorf("the other got %v, waited %v, %v", b.State, b.Waited, err)
			}
		})
		d.awaitWaiter()
		return commit
	})
	running.Wait()
	if err != nil || begun.State != idempotency.Run {
		t.Errorf("got %v, %v", begun.State, err)
	}
}
