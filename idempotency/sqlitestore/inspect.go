package sqlitestore

import (
	"context"
	"iter"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// pageSize is how many records are read at once.
const pageSize = 100

// Find returns the record of an ID, or nil if there is none.
func (s *Store) Find(ctx context.Context, id idempotency.ID) (*idempotency.Record, error) {
	r, now, err := s.view(ctx, id)
	if err != nil {
		return nil, wrap("find", err)
	}
	return r.Inspect(id, now), nil
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
					if found = l.Inspect(l.id, now); found == nil {
						continue
					}
					found.Outcome = nil
				}
				if !yield(found, wrap("records", l.err)) {
					return
				}
			}
			if len(list) < pageSize {
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
func (s *Store) list(ctx context.Context, after []byte) (list []listed, now time.Duration, err error) {
	now = s.wall()
	err = whileBusy(ctx, func() error {
		list = nil
		rows, err := s.file.db.QueryContext(ctx, selectRecords+"WHERE id > ? ORDER BY id LIMIT ?", after, pageSize)
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

// Free releases a pending record with a possible effect.
func (s *Store) Free(ctx context.Context, r *idempotency.Record) error {
	return s.change(ctx, "free", r.ID, func(stored *record, now time.Duration) error { return stored.Free(r, now) })
}

// Forget deletes a record.
func (s *Store) Forget(ctx context.Context, r *idempotency.Record) error {
	return s.change(ctx, "forget", r.ID, func(stored *record, now time.Duration) error { return stored.Forget(r, now) })
}
