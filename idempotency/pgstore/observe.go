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

// Observe runs a write that is not claimed. [Tx] begins its transaction when it is
// first called, and returns false if that fails.
func (s *Store) Observe(ctx context.Context, run func(ctx context.Context) (commit bool)) (err error) {
	t := &observedTx{store: s}
	commit := false
	defer func() { err = t.end(ctx, commit) }() // which rolls back if the handler panics
	commit = run(context.WithValue(ctx, txContext{}, t))
	return nil
}

// observedTx is the transaction of a write that is not claimed. It has not begun, is
// open, or is closed.
type observedTx struct {
	store *Store

	mu      sync.Mutex
	closed  bool
	release func() // gives its connection back
	begun   *tx    // nil unless it has begun
}

// get returns the transaction, which it begins if need be.
func (t *observedTx) get(ctx context.Context) *tx {
	t.mu.Lock()
	begun, closed := t.begun, t.closed
	t.mu.Unlock()
	if begun != nil || closed {
		return begun
	}
	conn, release, err := t.store.acquire(ctx) // which may wait for long
	if err != nil {
		return nil
	}
	isolation := cmp.Or(t.store.isolation, pgx.ReadCommitted) // as claimed writes have it
	inner, err := conn.Conn().BeginTx(ctx, pgx.TxOptions{IsoLevel: isolation})
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil || t.begun != nil || t.closed { // by another goroutine of the handler's
		release()
		return t.begun
	}
	t.release, t.begun = release, &tx{Tx: inner, hands: &hands{conn: conn}}
	return t.begun
}

// end ends the transaction, if it has begun. The caller's cancellation does not reach
// it.
func (t *observedTx) end(ctx context.Context, commit bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.begun == nil {
		return nil
	}
	defer t.release()
	t.begun.hands.close(t.store.settle)
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
