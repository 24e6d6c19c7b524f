package sqlitestore_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
)

var errFault = errors.New("a fault of the disk")

// faulty connects with a driver, and fails where it is told to.
type faulty struct {
	inner driver.Driver
	dsn   string
	fault atomic.Pointer[fault]
}

// fault is an error of one statement: before it has an effect, or after.
type fault struct {
	query string
	after bool
	also  string // fails from then on: a statement, or "read"
	hit   atomic.Bool
}

// hits reports whether a statement is to fail.
func (f *fault) hits(query string) bool {
	switch {
	case f == nil:
		return false
	case f.hit.Load():
		return f.also == query
	case f.query != query:
		return false
	default:
		f.hit.Store(true)
		return true
	}
}

func (f *faulty) Connect(context.Context) (driver.Conn, error) {
	c, err := f.inner.Open(f.dsn)
	if err != nil {
		return nil, err
	}
	return faultyConn{c.(everything), f}, nil //nolint:errcheck // the driver has everything
}

func (f *faulty) Driver() driver.Driver { return f.inner }

type everything interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

type faultyConn struct {
	everything

	faulty *faulty
}

func (c faultyConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	f := c.faulty.fault.Load()
	if !f.hits(query) {
		return c.everything.ExecContext(ctx, query, args)
	}
	if f.after {
		if _, err := c.everything.ExecContext(ctx, query, args); err != nil {
			return nil, err
		}
	}
	return nil, errFault
}

func (c faultyConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if c.faulty.fault.Load().hits("read") {
		return nil, errFault
	}
	return c.everything.QueryContext(ctx, query, args)
}

// newFaultyDesk returns a desk whose store has faults, and whose db has none.
func newFaultyDesk(t *testing.T) (*desk, *faulty) {
	t.Helper()
	d := newDesk(t)
	f := &faulty{inner: d.db.Driver(), dsn: d.path + settings}
	db := sql.OpenDB(f)
	t.Cleanup(func() { _ = db.Close() })
	d.store = newStore(t, db, sqlitestore.WithTransactions())
	return d, f
}

// After a failed commit, the store reads the record to find out whether the transaction was
// committed. Only if it cannot read the record is the outcome unknown.
func TestFailedCommitIsResolvedByReadingTheRecord(t *testing.T) {
	t.Parallel()
	d, f := newFaultyDesk(t)
	run := func(key string, fault *fault) error {
		defer f.fault.Store(nil)
		return d.transact(key, func(ctx context.Context) idempotency.Verdict {
			if err := pay(ctx, key); err != nil {
				t.Error(err)
			}
			f.fault.Store(fault)
			return commit
		})
	}
	d.wantUndone("refused", run("refused", &fault{query: "COMMIT"}))
	d.wantUndone("refused, and so is ROLLBACK", run("refused, and so is ROLLBACK", &fault{query: "COMMIT", also: "ROLLBACK"}))
	if err := run("answer lost", &fault{query: "COMMIT", after: true}); err != nil || !d.paid("answer lost") {
		t.Errorf("the answer was lost: %v, paid %v", err, d.paid("answer lost"))
	}
	d.want("answer lost", idempotency.Replay, "paid")
	if err := run("unknown", &fault{query: "COMMIT", after: true, also: "read"}); !errors.Is(err, idempotency.ErrOutcomeUnknown) {
		t.Errorf("got %v, want that the outcome is unknown", err)
	}
	d.want("unknown", idempotency.Replay, "paid")
}

func TestObservedCommitWithoutAnAnswerIsUnknown(t *testing.T) {
	t.Parallel()
	d, f := newFaultyDesk(t)
	for name, fault := range map[string]*fault{"refused": {query: "COMMIT"}, "answer lost": {query: "COMMIT", after: true}} {
		err := d.store.Observe(t.Context(), func(ctx context.Context) bool {
			if err := pay(ctx, name); err != nil {
				t.Error(err)
			}
			f.fault.Store(fault)
			return true
		})
		if err == nil || errors.Is(err, idempotency.ErrOutcomeUnknown) != fault.after || d.paid(name) != fault.after {
			t.Errorf("%s: %v, paid %v", name, err, d.paid(name))
		}
	}
}

// A connection that may be in a transaction does not go back to the pool.
func TestStepAfterAFaultIsTaken(t *testing.T) {
	t.Parallel()
	d, f := newFaultyDesk(t)
	for _, fault := range []*fault{
		{query: "BEGIN IMMEDIATE"},
		{query: "BEGIN IMMEDIATE", after: true},
		{query: "COMMIT"},
		{query: "COMMIT", after: true},
		{query: "COMMIT", also: "ROLLBACK"},
		{query: "SAVEPOINT hopbound"},
		{query: "RELEASE SAVEPOINT hopbound"},
	} {
		f.fault.Store(fault)
		_, _ = d.store.Begin(t.Context(), claimOf("lease"))
		f.fault.Store(fault)
		_, _ = d.store.Transact(t.Context(), claimOf("transaction"), func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit })
		f.fault.Store(nil)
		claim := claimOf("lease")
		if b, err := d.store.Begin(t.Context(), claim); err != nil || b.State != idempotency.Run {
			t.Errorf("%+v: told %v, %v", fault, b.State, err)
		}
		d.exec("INSERT OR REPLACE INTO ledger VALUES ('the lock is free', 1)")
	}
}

// With a rollback journal, a commit waits until all readers have finished.
func TestCommitWaitsForReadersOfARollbackJournal(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	db, err := sql.Open("sqlite", path+"?_pragma=synchronous(OFF)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	d := &desk{T: t, path: path, db: db, store: newStore(t, db, sqlitestore.WithTransactions())}
	d.exec("CREATE TABLE ledger (account TEXT PRIMARY KEY, cents INTEGER)")
	d.exec("INSERT INTO ledger VALUES ('a', 1), ('b', 1)")
	rows, err := db.QueryContext(t.Context(), "SELECT account FROM ledger")
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	returned := make(chan struct{})
	go func() {
		ended <- d.transact("k", func(ctx context.Context) idempotency.Verdict {
			defer close(returned)
			if err := pay(ctx, "k"); err != nil {
				t.Error(err)
			}
			return commit
		})
	}()
	<-returned
	if !rows.Next() {
		t.Error(rows.Err())
	}
	select {
	case err := <-ended:
		t.Errorf("the commit has not waited: %v", err)
	default:
	}
	if err := rows.Close(); err != nil { //nolint:sqlclosecheck // the commit waits for it
		t.Error(err)
	}
	if err := <-ended; err != nil || !d.paid("k") {
		t.Errorf("%v, paid %v", err, d.paid("k"))
	}
}
