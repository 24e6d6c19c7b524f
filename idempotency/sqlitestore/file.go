package sqlitestore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// file is the SQLite file, reached by the application's pool. In a process, one goroutine
// writes at a time. Those that wait for their turn hold no connection.
type file struct {
	db   *sql.DB
	turn chan struct{} // has room for one, which writes
}

func newFile(db *sql.DB) file { return file{db: db, turn: make(chan struct{}, 1)} }

// transaction is a transaction that holds the file's write lock, on a connection of its own.
type transaction struct {
	file *file
	conn *sql.Conn
}

// lock begins a transaction with the file's write lock, for which it waits until ctx ends. A
// transaction that has the lock from its start cannot conflict with another.
func (f *file) lock(ctx context.Context) (*transaction, error) {
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	conn, err := f.db.Conn(ctx)
	if err != nil {
		<-f.turn
		return nil, err
	}
	t := &transaction{file: f, conn: conn}
	if err := whileBusy(ctx, func() error { return t.exec(ctx, "BEGIN IMMEDIATE") }); err != nil {
		t.discard() // it may have begun if ctx has ended
		return nil, err
	}
	return t, nil
}

func (t *transaction) exec(ctx context.Context, query string, args ...any) error {
	_, err := t.conn.ExecContext(ctx, query, args...)
	return err
}

// commit commits the transaction. With a rollback journal, it waits for readers until ctx ends.
// If commit returns an error, undone reports whether the transaction was certainly rolled back.
func (t *transaction) commit(ctx context.Context) (undone bool, err error) {
	if err := whileBusy(ctx, func() error { return t.exec(ctx, "COMMIT") }); err != nil {
		return t.rollback(), err
	}
	t.release()
	return false, nil
}

// rollback rolls the transaction back, and reports whether there was one.
func (t *transaction) rollback() bool {
	if err := t.exec(context.Background(), "ROLLBACK"); err != nil {
		t.discard()
		return false
	}
	t.release()
	return true
}

// release gives the connection back, and then the turn.
func (t *transaction) release() {
	_ = t.conn.Close()
	<-t.file.turn
}

// discard closes the connection, so that SQLite rolls back what is not committed.
func (t *transaction) discard() {
	_ = t.conn.Raw(func(any) error { return driver.ErrBadConn })
	t.release()
}

// Pauses between the attempts to get a lock that another connection has.
const (
	minPause = time.Millisecond
	maxPause = 25 * time.Millisecond
)

// whileBusy repeats a step until no other connection has the file locked, or ctx ends.
func whileBusy(ctx context.Context, step func() error) error {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := step()
		if !isBusy(err) {
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2)) //nolint:gosec // jitter need not be secret
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// isBusy reports whether an error is SQLITE_BUSY. Drivers have no error type in common, but all
// of them return SQLite's own text for it.
func isBusy(err error) bool { return err != nil && strings.Contains(err.Error(), "database is locked") }
