package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// settleTimeout bounds how long the end of a transaction may take, which the caller's
// cancellation does not reach.
const settleTimeout = 10 * time.Second

// The mark in the transaction after which the handler's own writes begin.
const (
	setMark    = "SAVEPOINT hopbound_7c1e9f40"
	dropMark   = "RELEASE SAVEPOINT hopbound_7c1e9f40"
	backToMark = "ROLLBACK TO SAVEPOINT hopbound_7c1e9f40"
)

// runner runs a handler in a transaction.
type runner = func(ctx context.Context, claimed idempotency.BeginResult) idempotency.Verdict

// Transactional reports whether the store has [WithTransactions].
func (s *Store) Transactional() bool { return s.transactions }

// Transact claims a write and runs it in a transaction, or returns its state. It waits for the write
// lock, whichever write has it, until ctx ends, or for [idempotency.Claim.Wait]. A write that is done
// is answered without the lock. It never returns [idempotency.ErrConflict].
func (s *Store) Transact(ctx context.Context, claim idempotency.Claim, run func(ctx context.Context, claimed idempotency.BeginResult) idempotency.Verdict) (begun idempotency.BeginResult, err error) {
	wait := ctx
	if claim.Wait > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, claim.Wait)
		defer cancel()
	}
	begun, err = s.ask(ctx, &claim)
	for err == nil && (begun.State == idempotency.Absent || begun.State == idempotency.Run || begun.State == idempotency.Join) {
		if begun.State == idempotency.Join { // a server without transactions has a lease
			err = s.Wait(wait, claim.ID)
		}
		ran := false
		if err == nil {
			begun, ran, err = s.transact(ctx, wait, &claim, run)
		}
		if ran {
			return begun, err
		}
		begun.Waited = true
		if err != nil && wait.Err() != nil && ctx.Err() == nil {
			return idempotency.BeginResult{State: idempotency.Join, Waited: true}, nil
		}
	}
	return begun, wrap("transact", err)
}

// transact claims the write in a transaction in which it then runs it. If it reports that the
// handler has not run, the transaction was rolled back.
func (s *Store) transact(ctx, wait context.Context, claim *idempotency.Claim, run runner) (begun idempotency.BeginResult, ran bool, err error) {
	w, err := s.write(wait)
	if err != nil {
		return begun, false, err
	}
	begun, err = w.claim(claim)
	if err == nil && begun.State == idempotency.Run {
		err = w.exec(wait, setMark)
	}
	var l *loan
	if err == nil && begun.State == idempotency.Run {
		l, err = w.lend(ctx)
	}
	if l == nil {
		w.rollback()
		return begun, false, err
	}
	var verdict idempotency.Verdict // to roll back, if the handler panics
	defer func() {
		l.end()
		if ended := s.end(ctx, w, idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}, verdict); ended != nil {
			err = ended
		}
	}()
	verdict = run(context.WithValue(ctx, txContext{}, l), begun)
	return begun, true, nil
}

// end ends the transaction as its verdict says. The record that the claim has written is pending
// until then: if the handler has committed it, a later run is told of a possible effect.
func (s *Store) end(ctx context.Context, w *writer, lease idempotency.Lease, v idempotency.Verdict) error {
	defer s.waiting.Wake(lease.ID)
	if !v.Keep {
		w.rollback()
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	w.ctx = ctx
	if err := s.keep(w, lease, v); err != nil {
		w.rollback()
		return s.resolve(ctx, lease, err)
	}
	if _, err := w.commit(ctx); err != nil {
		return s.resolve(ctx, lease, err)
	}
	return nil
}

// keep writes the outcome, after it has undone the handler's writes unless they are to be committed.
func (s *Store) keep(w *writer, lease idempotency.Lease, v idempotency.Verdict) error {
	mark := dropMark
	if !v.Commit {
		mark = backToMark
	}
	if err := w.exec(w.ctx, mark); err != nil { // the transaction has ended
		return err
	}
	if err := w.tick(s.wall()); err != nil { // the retention begins now
		return err
	}
	return w.complete(lease, v.Outcome, v.Retention)
}

// resolve finds out from the record what became of a transaction whose end has failed.
func (s *Store) resolve(ctx context.Context, lease idempotency.Lease, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
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
