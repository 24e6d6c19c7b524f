package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// end ends the transaction as its verdict says. The caller's cancellation does
// not reach it.
func (f *flight) end(ctx context.Context, conn *pgx.Conn, v idempotency.Verdict) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.store.settle)
	defer cancel()
	if !v.Keep {
		_ = f.rollback(ctx, conn) // if that fails, the connection is closed, and that rolls back too
		return conflict("transact: the handler's transaction was rolled back", v.Err)
	}
	const (
		inTransaction = 'T'
		hasFailed     = 'E'
	)
	status := conn.PgConn().TxStatus()
	switch {
	case conn.IsClosed(): // and what was done with it is rolled back
		return errors.New("pgstore: transact: it was not committed: the connection is closed")
	case status != inTransaction && status != hasFailed:
		return fmt.Errorf("pgstore: transact: the handler has ended the transaction: %w", idempotency.ErrOutcomeUnknown)
	}
	b := &pgx.Batch{}
	switch {
	case !v.Commit && status == inTransaction:
		b.Queue(undo)
	case !v.Commit: // by itself: pgx prepares a batch, which fails here
		if _, err := conn.Exec(ctx, undo); err != nil {
			_ = f.rollback(ctx, conn)
			return wrap("transact: it was not committed", err)
		}
	}
	f.queueOutcome(b, v)
	b.Queue("COMMIT")
	err := conn.SendBatch(ctx, b).Close()
	switch {
	case err == nil:
		return nil
	case isRefusal(err):
		_ = f.rollback(ctx, conn)
		if other := conflict("transact: it was not committed", err); other != nil {
			return other
		}
		return wrap("transact: it was not committed", err)
	default:
		_ = conn.Close(ctx)
		return &lostCommitError{err}
	}
}

func (f *flight) queueOutcome(b *pgx.Batch, v idempotency.Verdict) {
	c, outcome, retention := f.claim, notNil(v.Outcome), micros(v.Retention)
	if f.fresh {
		b.Queue(f.store.sql.keep, c.ID[:], c.Owner, c.Fingerprint.Schema, c.Fingerprint.Sum[:], outcome, retention, f.table, f.began, c.Method, c.KeyHash)
	} else {
		b.Queue(f.store.sql.finish, c.ID[:], c.Owner, outcome, retention, f.began)
	}
}

// conflict returns an error that wraps [idempotency.ErrConflict] if err says that another
// transaction was in the way, or nil. That another has made the same record since the
// snapshot was taken is one, too.
func conflict(step string, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return nil
	}
	switch {
	case pg.Code == codeSerialization, pg.Code == codeDeadlock, pg.Code == codeUnique && pg.TableName == "hopbound_idempotency":
		return fmt.Errorf("pgstore: %s: %w: %w", step, idempotency.ErrConflict, err)
	default:
		return nil
	}
}

// lostCommitError is that the answer to a commit was lost.
type lostCommitError struct{ error }

// isRefusal reports whether the server says that it has not done what it was
// asked. A fatal error may come after a commit.
func isRefusal(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR"
}

// resolve finds out whether a transaction was committed whose end was not heard
// of. Its claim is tried again: while the transaction is still there, that waits
// for it.
func (f *flight) resolve(ctx context.Context, lost error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.store.settle)
	defer cancel()
	for {
		committed, err := f.committed(ctx)
		switch {
		case err == nil && committed:
			return nil
		case err == nil:
			return wrap("transact: it was not committed", lost)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pgstore: transact: %w: %w", idempotency.ErrOutcomeUnknown, lost)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// committed reports whether the record is there and was made by this flight.
func (f *flight) committed(ctx context.Context) (bool, error) {
	pooled, err := f.store.own.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer pooled.Release()
	mine := func(r *row) bool { return r != nil && r.done && r.owner == f.claim.Owner }
	r, err := scanRow(pooled.QueryRow(ctx, f.store.sql.read, f.claim.ID[:]))
	if err != nil || mine(r) {
		return err == nil, err
	}
	again := *f
	again.patience = ctx
	_, t, err := again.begin(ctx, pooled.Conn())
	if err != nil {
		return false, err
	}
	if err := again.rollback(ctx, pooled.Conn()); err != nil {
		return false, err
	}
	return !t.claimed && mine(t.row), nil
}
