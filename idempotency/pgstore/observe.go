package pgstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
)

// Observe runs a write without a claim. The first call of [Tx] begins its transaction, and returns
// false if that fails.
func (s *Store) Observe(ctx context.Context, run func(ctx context.Context) (commit bool)) (err error) {
	t := &observedTx{store: s}
	commit := false
	defer func() { err = t.end(ctx, commit) }() // rolls back if the handler panics
	commit = run(context.WithValue(ctx, txContext{}, t))
	return nil
}

// observedTx is the transaction of a write without a claim. It has not begun, is open, or is closed.
type observedTx struct {
	store *Store

	mu      sync.Mutex
	closed  bool
	release func() // returns the connection
	open    *tx    // nil until it begins
}

// get returns the transaction. It begins the transaction if it has not begun.
func (t *observedTx) get(ctx context.Context) *tx {
	t.mu.Lock()
	open, closed := t.open, t.closed
	t.mu.Unlock()
	if open != nil || closed {
		return open
	}
	conn, release, err := t.store.acquire(ctx) // may wait for long, so without the mutex
	if err != nil {
		return nil
	}
	isolation := cmp.Or(t.store.isolation, pgx.ReadCommitted) // as for claimed writes
	inner, err := conn.Conn().BeginTx(ctx, pgx.TxOptions{IsoLevel: isolation})
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || t.open != nil || t.closed { // by another goroutine of the handler
		release()
		return t.open
	}
	t.release, t.open = release, &tx{Tx: inner, shared: &sharedTx{conn: conn}}
	return t.open
}

// end ends the transaction, if it has begun. The caller's cancellation does not interrupt it.
func (t *observedTx) end(ctx context.Context, commit bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.open == nil {
		return nil
	}
	defer t.release()
	t.open.shared.close(t.store.settle)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.store.settle)
	defer cancel()
	if !commit {
		_ = t.open.Tx.Rollback(ctx)
		return nil
	}
	switch err := t.open.Tx.Commit(ctx); {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrTxCommitRollback), isRefusal(err):
		return wrap("observe: it was not committed", err)
	default:
		return fmt.Errorf("pgstore: observe: %w: %w", idempotency.ErrOutcomeUnknown, err)
	}
}
