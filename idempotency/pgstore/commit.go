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

// end ends the transaction as its verdict says. The caller's cancellation does not interrupt it. If
// the answer to the commit is lost, end finds out whether the transaction was committed.
func (c *txClaim) end(ctx context.Context, conn *pgx.Conn, v idempotency.Verdict) error {
	err := c.commit(ctx, conn, v)
	if lost := (*lostCommitError)(nil); errors.As(err, &lost) {
		return c.resolve(ctx, lost.error)
	}
	return err
}

func (c *txClaim) commit(ctx context.Context, conn *pgx.Conn, v idempotency.Verdict) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.store.settle)
	defer cancel()
	if !v.Keep {
		_ = c.rollback(ctx, conn) // if it fails, the connection is closed, which rolls back too
		return conflict("transact: the handler's transaction was rolled back", v.Err)
	}
	const (
		inTransaction = 'T'
		hasFailed     = 'E'
	)
	status := conn.PgConn().TxStatus()
	switch {
	case conn.IsClosed(): // PostgreSQL rolls back
		return errors.New("pgstore: transact: it was not committed: the connection is closed")
	case status != inTransaction && status != hasFailed:
		return fmt.Errorf("pgstore: transact: the handler has ended the transaction: %w", idempotency.ErrOutcomeUnknown)
	}
	b := &pgx.Batch{}
	switch {
	case !v.Commit && status == inTransaction:
		b.Queue(rollbackToSavepoint)
	case !v.Commit: // not in the batch, which pgx would prepare: that fails in a failed transaction
		if _, err := conn.Exec(ctx, rollbackToSavepoint); err != nil {
			_ = c.rollback(ctx, conn)
			return wrap("transact: it was not committed", err)
		}
	}
	c.queueOutcome(b, v)
	b.Queue("COMMIT")
	err := conn.SendBatch(ctx, b).Close()
	switch {
	case err == nil:
		return nil
	case isRefusal(err):
		_ = c.rollback(ctx, conn)
		if other := conflict("transact: it was not committed", err); other != nil {
			return other
		}
		return wrap("transact: it was not committed", err)
	default:
		_ = conn.Close(ctx)
		return &lostCommitError{err}
	}
}

func (c *txClaim) queueOutcome(b *pgx.Batch, v idempotency.Verdict) {
	claim, outcome, retention := c.claim, notNil(v.Outcome), micros(v.Retention)
	if c.fresh {
		b.Queue(c.store.sql.insertDone, claim.ID[:], claim.Owner, claim.Fingerprint.Schema, claim.Fingerprint.Sum[:], outcome, retention,
			c.table, c.began, claim.Method, claim.KeyHash)
	} else {
		b.Queue(c.store.sql.updateDone, claim.ID[:], claim.Owner, outcome, retention, c.began)
	}
}

// conflict returns an error that wraps [idempotency.ErrConflict] if err is a conflict with another
// transaction, and nil otherwise. If another transaction has inserted the same record since the
// snapshot was taken, that is a conflict too.
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

// lostCommitError means that the answer to a commit was lost.
type lostCommitError struct{ error }

// isRefusal reports whether the server has certainly not carried out the statement. A FATAL error is
// no proof, because it may follow a commit.
func isRefusal(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR"
}

// resolve finds out whether a transaction was committed after its answer was lost. It claims the
// record again, which waits while the transaction is still open.
func (c *txClaim) resolve(ctx context.Context, lost error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.store.settle)
	defer cancel()
	for {
		committed, err := c.committed(ctx)
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

// committed reports whether the record is done and was written by this claim.
func (c *txClaim) committed(ctx context.Context) (bool, error) {
	pooled, err := c.store.own.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer pooled.Release()
	mine := func(r *row) bool { return r != nil && r.done && r.owner == c.claim.Owner }
	r, err := scanRow(pooled.QueryRow(ctx, c.store.sql.read, c.claim.ID[:]))
	if err != nil || mine(r) {
		return err == nil, err
	}
	again := *c
	again.waitLimit = ctx
	_, claimed, err := again.begin(ctx, pooled.Conn())
	if err != nil {
		return false, err
	}
	if err := again.rollback(ctx, pooled.Conn()); err != nil {
		return false, err
	}
	return !claimed.claimed && mine(claimed.row), nil
}
