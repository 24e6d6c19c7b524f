package sqlitestore

import (
	"context"
	"fmt"
	"sync"

	"github.com/hopbound/hopbound/idempotency"
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
	open    *transaction // nil until it begins
	handler *handlerTx
}

// get returns the transaction for the handler. It begins the transaction if it has not begun.
func (t *observedTx) get(ctx context.Context) *handlerTx {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.handler != nil || t.closed {
		return t.handler
	}
	open, err := t.store.file.lock(ctx)
	if err != nil {
		return nil
	}
	if t.handler, err = open.forHandler(ctx); err != nil {
		open.rollback()
		return nil
	}
	t.open = open
	return t.handler
}

// end ends the transaction, if it has begun. The caller's cancellation does not interrupt it.
func (t *observedTx) end(ctx context.Context, commit bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.open == nil {
		return nil
	}
	t.handler.end()
	if !commit {
		t.open.rollback()
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	switch undone, err := t.open.commit(ctx); {
	case err == nil:
		return nil
	case undone:
		return wrap("observe: it was not committed", err)
	default:
		return fmt.Errorf("sqlitestore: observe: %w: %w", idempotency.ErrOutcomeUnknown, err)
	}
}
