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
	now   time.Duration
	fence uint64 // the next, for a claim
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
func (w *writer) tick(wall time.Duration) error {
	const query = "UPDATE hopbound_idempotency_state SET time = max(time, ?), fence = fence + 1 RETURNING time, fence"
	return w.conn.QueryRowContext(w.ctx, query, wall).Scan(&w.now, &w.fence)
}

// change takes a step with the record of an ID, in a transaction of its own.
func (s *Store) change(ctx context.Context, name string, id idempotency.ID, step func(r *record, now time.Duration) error) error {
	return s.step(ctx, name, id, func(w *writer) error {
		return w.change(id, func(r *record) error { return step(r, w.now) })
	})
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

// change takes a step with the record of an ID. If the step fails, it writes nothing.
func (w *writer) change(id idempotency.ID, step func(r *record) error) error {
	r, _, err := readRecord(w.ctx, w.conn, id)
	if err == nil {
		err = step(r)
	}
	switch {
	case err != nil:
		return err
	case r.State() == "":
		return w.exec(w.ctx, "DELETE FROM hopbound_idempotency WHERE id = ?", id[:])
	default:
		const query = "INSERT OR REPLACE INTO hopbound_idempotency (" + columns + ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
		return w.exec(w.ctx, query, id[:], r.Owner, int64(r.Fence), r.Done, r.Effect, r.Until, r.Keep, r.Created, r.Attempts, //nolint:gosec // it was drawn as an int64
			r.Method, r.KeyHash, r.Fingerprint.Schema, r.Fingerprint.Sum[:], r.Data)
	}
}

// claim claims a write, or returns its state.
func (w *writer) claim(claim *idempotency.Claim) (result idempotency.BeginResult, err error) {
	err = w.change(claim.ID, func(r *record) error {
		result = r.Claim(claim, w.fence, w.now)
		return nil
	})
	return result, err
}

func (w *writer) complete(lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	return w.change(lease.ID, func(r *record) error { return r.Complete(lease, outcome, retention, w.now) })
}
