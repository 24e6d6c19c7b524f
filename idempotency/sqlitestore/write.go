package sqlitestore

import (
	"context"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// writer takes steps in a transaction.
type writer struct {
	*transaction

	ctx   context.Context
	now   int64
	fence int64 // the next, for a claim
}

// write begins a transaction for steps. It waits for the write lock until ctx ends.
func (s *Store) write(ctx context.Context) (*writer, error) {
	t, err := s.file.lock(ctx)
	if err != nil {
		return nil, err
	}
	w := &writer{transaction: t, ctx: ctx}
	if err := w.tick(s.wall()); err != nil {
		w.rollback()
		return nil, err
	}
	return w, nil
}

// tick reads the file's time, which never goes back, and draws a fence.
func (w *writer) tick(wall int64) error {
	const query = "UPDATE hopbound_idempotency_state SET time = max(time, ?), fence = fence + 1 RETURNING time, fence"
	return w.conn.QueryRowContext(w.ctx, query, wall).Scan(&w.now, &w.fence)
}

// step takes a step in a transaction of its own, and wakes those who wait for the record.
func (s *Store) step(ctx context.Context, name string, id idempotency.ID, take func(w *writer) error) error {
	w, err := s.write(ctx)
	if err != nil {
		return wrap(name, err)
	}
	if err := take(w); err != nil {
		w.rollback()
		return wrap(name, err)
	}
	if _, err := w.commit(ctx); err != nil {
		return wrap(name, err)
	}
	s.waiting.Wake(id)
	return nil
}

func (w *writer) get(id idempotency.ID) (*record, error) {
	r, _, err := readRecord(w.ctx, w.conn, id)
	return r, err
}

// put writes a record in the place of the one with its ID.
func (w *writer) put(r *record) error {
	const query = "INSERT OR REPLACE INTO hopbound_idempotency (" + columns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	return w.exec(w.ctx, query, r.id[:], r.owner, r.fence, r.done, r.effect, r.until, r.keep, r.created, r.attempts,
		r.method, r.keyHash, r.fingerprint.Schema, r.fingerprint.Sum[:], r.stored)
}

func (w *writer) remove(id idempotency.ID) error {
	return w.exec(w.ctx, "DELETE FROM hopbound_idempotency WHERE id = ?", id[:])
}

// clamp bounds a duration, so that it can be added to a time.
func clamp(d time.Duration) int64 {
	const longest = 100 * 365 * 24 * time.Hour
	return int64(max(0, min(d, longest)))
}

func (w *writer) claim(claim *idempotency.Claim) (idempotency.BeginResult, error) {
	old, err := w.get(claim.ID)
	if err != nil {
		return idempotency.BeginResult{}, err
	}
	known := old.answer(claim, w.now)
	if known.State != idempotency.Absent {
		return known, nil
	}
	r := &record{
		id: claim.ID, owner: claim.Owner, fence: w.fence, effect: known.TakenOver, created: w.now, attempts: 1,
		until: w.now + clamp(claim.Lease), keep: clamp(claim.KeepFor()),
		method: claim.Method, keyHash: claim.KeyHash, fingerprint: claim.Fingerprint,
	}
	if known.TakenOver {
		r.created, r.attempts, r.stored = old.created, old.attempts+1, old.stored
	}
	if err := w.put(r); err != nil {
		return idempotency.BeginResult{}, err
	}
	return r.run(), nil
}

func (w *writer) complete(lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	r, err := w.get(lease.ID)
	switch {
	case err != nil:
		return err
	case !r.owns(lease):
		return idempotency.ErrLeaseLost
	case r.done: // the owner asks again because it has got no answer
		return nil
	}
	r.done, r.effect, r.stored, r.until, r.keep = true, false, outcome, w.now+clamp(retention), 0
	return w.put(r)
}

func (w *writer) extend(lease idempotency.Lease, d time.Duration) error {
	return w.change(lease, func(r *record) { r.until = max(r.until, w.now+clamp(d)) })
}

func (w *writer) save(lease idempotency.Lease, checkpoint []byte) error {
	return w.change(lease, func(r *record) { r.stored = checkpoint })
}

// change changes a pending record for its owner.
func (w *writer) change(lease idempotency.Lease, change func(r *record)) error {
	r, err := w.get(lease.ID)
	switch {
	case err != nil:
		return err
	case !r.owns(lease) || r.done:
		return idempotency.ErrLeaseLost
	}
	change(r)
	return w.put(r)
}

func (w *writer) release(lease idempotency.Lease, effect bool, retention time.Duration) error {
	r, err := w.get(lease.ID)
	switch {
	case err != nil:
		return err
	case r == nil, !r.done && r.owner == "":
		return nil
	case !r.owns(lease) || r.done:
		return idempotency.ErrLeaseLost
	case !effect && !r.effect:
		return w.remove(lease.ID)
	}
	r.owner, r.effect, r.until, r.keep = "", true, w.now, max(r.keep, clamp(retention))
	return w.put(r)
}
