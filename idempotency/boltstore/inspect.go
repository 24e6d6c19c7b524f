package boltstore

import (
	"bytes"
	"context"
	"iter"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	bolt "go.etcd.io/bbolt"
)

// Find returns the record of an ID, or nil if there is none.
func (s *Store) Find(ctx context.Context, id idempotency.ID) (*idempotency.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap("find", err)
	}
	r, err := s.view(id)
	if err != nil {
		return nil, wrap("find", err)
	}
	return r.Inspect(id, s.now()), nil
}

// pageSize is how many records are read at once.
const pageSize = 100

// Records returns all records, in the order of their IDs.
func (s *Store) Records(ctx context.Context) iter.Seq2[*idempotency.Record, error] {
	return func(yield func(*idempotency.Record, error) bool) {
		var after []byte
		for {
			page, err := s.page(ctx, after)
			if err != nil {
				yield(nil, wrap("records", err))
				return
			}
			for _, l := range page {
				if !yield(l.record, wrap("records", l.err)) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			last := page[len(page)-1].record.ID
			after = last[:]
		}
	}
}

// listedRecord is a record, and an error if it cannot be read.
type listedRecord struct {
	record *idempotency.Record
	err    error
}

// page reads the next records after an ID. It ends its transaction before the caller looks at the
// records, because a write that makes the file grow waits for readers.
func (s *Store) page(ctx context.Context, after []byte) (page []listedRecord, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte(bucketRecords)).Cursor()
		key, raw := c.Seek(after)
		if bytes.Equal(key, after) && after != nil {
			key, raw = c.Next()
		}
		for ; key != nil && len(page) < pageSize && ctx.Err() == nil; key, raw = c.Next() {
			if len(key) != len(idempotency.ID{}) {
				continue
			}
			if found, err := list(idempotency.ID(key), raw, s.now()); found != nil {
				page = append(page, listedRecord{found, err})
			}
		}
		return ctx.Err()
	})
	return page, err
}

// list returns a record as [Store.Records] does, or nil if it is absent.
func list(id idempotency.ID, raw []byte, now time.Duration) (*idempotency.Record, error) {
	r, err := parse(raw)
	if err != nil {
		return &idempotency.Record{ID: id}, err
	}
	found := r.Inspect(id, now)
	if found != nil {
		found.Outcome, found.Checkpoint = nil, bytes.Clone(found.Checkpoint)
	}
	return found, nil
}

// Free releases a pending record with a possible effect.
func (s *Store) Free(ctx context.Context, r *idempotency.Record) error {
	return s.change(ctx, "free", r.ID, func(stored *idempotency.StoredRecord, now time.Duration) error { return stored.Free(r, now) })
}

// Forget deletes a record.
func (s *Store) Forget(ctx context.Context, r *idempotency.Record) error {
	return s.change(ctx, "forget", r.ID, func(stored *idempotency.StoredRecord, now time.Duration) error { return stored.Forget(r, now) })
}
