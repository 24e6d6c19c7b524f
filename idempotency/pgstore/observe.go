package pgstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Observe runs a write that is not claimed. [Tx] begins its transaction when it is
// first called, and returns false if that fails.
func (s *Store) Observe(ctx context.Context, run func(ctx context.Context) (commit bool)) (err error) {
	t := &observedTx{store: s, closed: new(atomic.Bool)}
	commit := false
	defer func() { err = t.end(ctx, commit) }() // which rolls back if the handler panics
	commit = run(context.WithValue(ctx, txContext{}, t))
	return nil
}

// observedTx is the transaction of a write that is not claimed. It has not begun, is
// open, or is closed.
type observedTx struct {
	store  *Store
	closed *atomic.Bool

	mu    sync.Mutex
	conn  *pgxpool.Conn // nil unless it has begun
	begun *tx
}

// get returns the transaction, which it begins if need be.
func (t *observedTx) get(ctx context.Context) (pgx.Tx, bool) {
	t.mu.Lock()
	begun := t.begun
	t.mu.Unlock()
	switch {
	case begun != nil:
		return begun, true
	case t.closed.Load():
		return nil, false
	}
	conn, err := t.store.pool.Acquire(ctx) // which may wait for long
	if err != nil {
		return nil, false
	}
	inner, err := conn.Conn().BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}) // as claimed writes have it
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || t.begun != nil || t.closed.Load() { // by another goroutine of the handler's
		conn.Release() // which closes a connection that is in a transaction
		if t.begun == nil {
			return nil, false
		}
		return t.begun, true
	}
	t.conn, t.begun = conn, &tx{Tx: inner, closed: t.closed}
	return t.begun, true
}

// end ends the transaction, if it has begun. The caller's cancellation does not reach
// it.
func (t *observedTx) end(ctx context.Context, commit bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed.Store(true)
	if t.begun == nil {
		return nil
	}
	defer t.conn.Release() // which closes a connection that is still in a transaction
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.store.settle)
	defer cancel()
	if !commit {
		_ = t.begun.Tx.Rollback(ctx)
		return nil
	}
	switch err := t.begun.Tx.Commit(ctx); {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrTxCommitRollback), isRefusal(err):
		return wrap("observe: it was not committed", err)
	default:
		return fmt.Errorf("pgstore: observe: %w: %w", idempotency.ErrOutcomeUnknown, err)
	}
}
