package sqlitestore

import (
	"context"
	"iter"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// page is how many records are read at once.
const page = 100

// Find returns the record of an ID, or nil if there is none.
func (s *Store) Find(ctx context.Context, id idempotency.ID) (*idempotency.Record, error) {
	r, now, err := s.view(ctx, id)
	if err != nil || r == nil || r.due() <= now {
		return nil, wrap("find", err)
	}
	return r.inspect(now), nil
}

// Records returns all records, in the order of their IDs. It holds no connection while its caller
// looks at a record.
func (s *Store) Records(ctx context.Context) iter.Seq2[*idempotency.Record, error] {
	return func(yield func(*idempotency.Record, error) bool) {
		after := []byte{}
		for {
			list, now, err := s.list(ctx, after)
			if err != nil {
				yield(nil, wrap("records", err))
				return
			}
			for _, l := range list {
				found := &idempotency.Record{ID: l.id}
				if l.err == nil {
					if l.due() <= now {
						continue
					}
					found = l.inspect(now)
					found.Outcome = nil
				}
				if !yield(found, wrap("records", l.err)) {
					return
				}
			}
			if len(list) < page {
				return
			}
			last := list[len(list)-1].id
			after = last[:]
		}
	}
}

// listed is a record, or one that cannot be read.
type listed struct {
	*record
	err error
}

// list reads the next records after an ID.
func (s *Store) list(ctx context.Context, after []byte) (list []listed, now int64, err error) {
	now = s.wall()
	err = whileBusy(ctx, func() error {
		list = nil
		rows, err := s.file.db.QueryContext(ctx, selectRecords+"WHERE id > ? ORDER BY id LIMIT ?", after, page)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			r, fileTime, err := scanRecord(rows.Scan)
			if r == nil {
				return err
			}
			list, now = append(list, listed{r, err}), max(now, fileTime)
		}
		return rows.Err()
	})
	return list, now, err
}

// inspect returns what an operator sees of the record.
func (r *record) inspect(now int64) *idempotency.Record {
	found := &idempotency.Record{
		ID: r.id, State: idempotency.Pending, Method: r.method, KeyHash: r.keyHash, Owner: r.owner,
		Fence: uint64(r.fence), Attempts: int(r.attempts), //nolint:gosec // it is positive
		Age: time.Duration(now - r.created), Left: time.Duration(r.until - now),
	}
	switch {
	case r.done:
		found.State, found.Outcome = idempotency.Done, r.stored
	case r.owner == "":
		found.State, found.TakenOver, found.Left = idempotency.Released, true, time.Duration(r.due()-now)
		found.Checkpoint = r.stored
	default:
		found.TakenOver, found.Checkpoint = r.effect || r.until <= now, r.stored
	}
	return found
}

// Free releases a pending record with a possible effect.
func (s *Store) Free(ctx context.Context, r *idempotency.Record) error {
	return s.step(ctx, "free", r.ID, func(w *writer) error {
		if r.State != idempotency.Pending {
			return idempotency.ErrLeaseLost
		}
		if err := w.unchanged(r); err != nil {
			return err
		}
		return w.release(idempotency.Lease{ID: r.ID, Owner: r.Owner, Fence: r.Fence}, true, 0)
	})
}

// Forget deletes a record.
func (s *Store) Forget(ctx context.Context, r *idempotency.Record) error {
	return s.step(ctx, "forget", r.ID, func(w *writer) error {
		if err := w.unchanged(r); err != nil {
			return err
		}
		return w.remove(r.ID)
	})
}

// cameBack reports whether the lease had run out when the record was found, and lasts now.
func cameBack(found *idempotency.Record, r *record, now int64) bool {
	return found.State == idempotency.Pending && found.Left <= 0 && r.until > now
}

// unchanged returns [idempotency.ErrLeaseLost] if a record has changed since it was found.
func (w *writer) unchanged(found *idempotency.Record) error {
	r, err := w.get(found.ID)
	same := r.owns(idempotency.Lease{ID: found.ID, Owner: found.Owner, Fence: found.Fence})
	if err == nil && (!same || r.done != (found.State == idempotency.Done) || cameBack(found, r, w.now)) {
		err = idempotency.ErrLeaseLost
	}
	return err
}
