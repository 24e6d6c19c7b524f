package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// endTimeout bounds how long the end of a transaction may take. The caller's cancellation does not
// interrupt it.
const endTimeout = 10 * time.Second

// The savepoint after which the handler writes. No handler has a savepoint of this name by chance.
const (
	savepoint           = "SAVEPOINT hopbound_7c1e9f40"
	dropSavepoint       = "RELEASE SAVEPOINT hopbound_7c1e9f40"
	rollbackToSavepoint = "ROLLBACK TO SAVEPOINT hopbound_7c1e9f40"
)

// handlerFunc runs a handler in a transaction.
type handlerFunc = func(ctx context.Context, claimed idempotency.BeginResult) idempotency.Verdict

// Transactional reports whether the store has [WithTransactions].
func (s *Store) Transactional() bool { return s.transactions }

// Transact claims a write and runs it in a transaction, or returns its state. It waits for the write
// lock, whichever write holds it, until ctx or [idempotency.Claim.Wait] ends. For a write that is done,
// it returns the outcome without the lock. It never returns [idempotency.ErrConflict].
func (s *Store) Transact(ctx context.Context, claim idempotency.Claim, run func(ctx context.Context, claimed idempotency.BeginResult) idempotency.Verdict) (result idempotency.BeginResult, err error) {
	wait := ctx
	if claim.Wait > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, claim.Wait)
		defer cancel()
	}
	result, err = s.ask(ctx, &claim)
	for err == nil && (result.State == idempotency.Absent || result.State == idempotency.Run || result.State == idempotency.Join) {
		if result.State == idempotency.Join { // a server without transactions has a lease
			err = s.Wait(wait, claim.ID)
		}
		ran := false
		if err == nil {
			result, ran, err = s.transact(ctx, wait, &claim, run)
		}
		if ran {
			return result, err
		}
		result.Waited = true
		if err != nil && wait.Err() != nil && ctx.Err() == nil {
			return idempotency.BeginResult{State: idempotency.Join, Waited: true}, nil
		}
	}
	return result, wrap("transact", err)
}

// transact claims the write in a transaction, and runs it there. If it returns ran as false, the
// handler has not run and the transaction was rolled back.
func (s *Store) transact(ctx, wait context.Context, claim *idempotency.Claim, run handlerFunc) (result idempotency.BeginResult, ran bool, err error) {
	w, err := s.write(wait)
	if err != nil {
		return result, false, err
	}
	result, err = w.claim(claim)
	if err == nil && result.State == idempotency.Run {
		err = w.exec(wait, savepoint)
	}
	var h *handlerTx
	if err == nil && result.State == idempotency.Run {
		h, err = w.forHandler(ctx)
	}
	if h == nil {
		w.rollback()
		return result, false, err
	}
	var verdict idempotency.Verdict // rolls back, if the handler panics
	defer func() {
		h.end()
		if ended := s.end(ctx, w, idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: result.Fence}, verdict); ended != nil {
			err = ended
		}
	}()
	verdict = run(context.WithValue(ctx, txContext{}, h), result)
	return result, true, nil
}

// end ends the transaction as its verdict says. The record that the claim has written is pending until
// then: if the handler has committed it, TakenOver is true in a later run.
func (s *Store) end(ctx context.Context, w *writer, lease idempotency.Lease, v idempotency.Verdict) error {
	defer s.waiting.Wake(lease.ID)
	if !v.Keep {
		w.rollback()
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	w.ctx = ctx
	if err := s.writeOutcome(w, lease, v); err != nil {
		w.rollback()
		return s.resolve(ctx, lease, err)
	}
	if _, err := w.commit(ctx); err != nil {
		return s.resolve(ctx, lease, err)
	}
	return nil
}

// writeOutcome writes the outcome. Unless the verdict commits the handler's writes, it rolls them back
// first.
func (s *Store) writeOutcome(w *writer, lease idempotency.Lease, v idempotency.Verdict) error {
	end := dropSavepoint
	if !v.Commit {
		end = rollbackToSavepoint
	}
	if err := w.exec(w.ctx, end); err != nil { // the transaction has ended
		return err
	}
	if err := w.tick(s.wall()); err != nil { // the retention begins now
		return err
	}
	return w.complete(lease, v.Outcome, v.Retention)
}

// resolve reads the record to find out whether a transaction whose end has failed was committed.
func (s *Store) resolve(ctx context.Context, lease idempotency.Lease, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	r, _, err := s.view(ctx, lease.ID)
	switch {
	case err == nil && (r.Owner != lease.Owner || r.Fence != lease.Fence):
		return wrap("transact: it was not committed", failed)
	case err == nil && r.Done:
		return nil
	default: // it cannot be read, or the handler has committed the claim
		return fmt.Errorf("sqlitestore: transact: %w: %w", idempotency.ErrOutcomeUnknown, errors.Join(failed, err))
	}
}
