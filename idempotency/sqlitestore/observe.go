package sqlitestore

import (
	"context"
	"fmt"
	"sync"

	"github.com/hopbound/hopbound/idempotency"
)

// Observe runs a write that is not claimed. [Tx] begins its transaction when it is first called,
// and returns false if that fails.
func (s *Store) Observe(ctx context.Context, run func(ctx context.Context) (commit bool)) (err error) {
	t := &observedTx{store: s}
	commit := false
	defer func() { err = t.end(ctx, commit) }() // which rolls back if the handler panics
	commit = run(context.WithValue(ctx, txContext{}, t))
	return nil
}

// observedTx is the transaction of a write that is not claimed. It has not begun, is open, or is
// closed.
type observedTx struct {
	store *Store

	mu     sync.Mutex
	closed bool
	begun  *transaction // nil unless it has begun
	loan   *loan
}

// get returns the transaction in the hands of the handler. It begins the transaction if it has not
// begun.
func (t *observedTx) get(ctx context.Context) *loan {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.loan != nil || t.closed {
		return t.loan
	}
	begun, err := t.store.file.lock(ctx)
	if err != nil {
		return nil
	}
	if t.loan, err = begun.lend(ctx); err != nil {
		begun.rollback()
		return nil
	}
	t.begun = begun
	return t.loan
}

// end ends the transaction, if it has begun. The caller's cancellation does not reach it.
func (t *observedTx) end(ctx context.Context, commit bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.begun == nil {
		return nil
	}
	t.loan.end()
	if !commit {
		t.begun.rollback()
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	switch undone, err := t.begun.commit(ctx); {
	case err == nil:
		return nil
	case undone:
		return wrap("observe: it was not committed", err)
	default:
		return fmt.Errorf("sqlitestore: observe: %w: %w", idempotency.ErrOutcomeUnknown, err)
	}
}
