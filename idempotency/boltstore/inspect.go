package boltstore

import (
	"bytes"
	"context"
	"iter"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	bolt "go.etcd.io/bbolt"
)

// Find returns the record of an ID, or nil.
func (s *Store) Find(ctx context.Context, id idempotency.ID) (found *idempotency.Record, err error) {
	if err := ctx.Err(); err != nil {
		return nil, wrap("find", err)
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		r, err := view(tx, id)
		if r != nil && r.due() > s.now() {
			found = r.inspect(id, s.now())
		}
		return err
	})
	return found, wrap("find", err)
}

// listed is how many records are read at once.
const listed = 100

// Records returns all records, in the order of their IDs.
func (s *Store) Records(ctx context.Context) iter.Seq2[*idempotency.Record, error] {
	return func(yield func(*idempotency.Record, error) bool) {
		var after []byte
		for {
			page, err := s.list(ctx, after)
			if err != nil {
				yield(nil, wrap("records", err))
				return
			}
			for _, l := range page {
				if !yield(l.record, wrap("records", l.err)) {
					return
				}
			}
			if len(page) < listed {
				return
			}
			last := page[len(page)-1].record.ID
			after = last[:]
		}
	}
}

// listedRecord is a record, with an error if it cannot be read.
type listedRecord struct {
	record *idempotency.Record
	err    error
}

// list reads the next records after an ID. The caller looks at them when the file is not read any
// more: a write waits for readers when the file grows.
func (s *Store) list(ctx context.Context, after []byte) (page []listedRecord, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte(bucketRecords)).Cursor()
		key, raw := c.Seek(after)
		if bytes.Equal(key, after) && after != nil {
			key, raw = c.Next()
		}
		for ; key != nil && len(page) < listed && ctx.Err() == nil; key, raw = c.Next() {
			if len(key) != len(idempotency.ID{}) {
				continue
			}
			found := &idempotency.Record{ID: idempotency.ID(key)}
			r, err := parse(raw)
			if err == nil {
				if r.due() <= s.now() {
					continue
				}
				found = r.inspect(found.ID, s.now())
				found.Outcome = nil
			}
			page = append(page, listedRecord{found, err})
		}
		return ctx.Err()
	})
	return page, err
}

// inspect returns what an operator sees of a record.
func (r *record) inspect(id idempotency.ID, now int64) *idempotency.Record {
	found := &idempotency.Record{
		ID: id, State: idempotency.Pending, Method: r.method, KeyHash: r.keyHash, Owner: r.owner, Fence: r.fence,
		Attempts: int(r.attempts), //nolint:gosec // it is small
		Age:      time.Duration(now - r.created),
		Left:     time.Duration(r.until - now),
	}
	switch {
	case r.done:
		found.State, found.Outcome = idempotency.Done, bytes.Clone(r.stored)
	case r.owner == "":
		found.State, found.TakenOver, found.Left = idempotency.Released, true, time.Duration(r.due()-now)
		found.Checkpoint = bytes.Clone(r.stored)
	default:
		found.TakenOver, found.Checkpoint = r.effect || r.until <= now, bytes.Clone(r.stored)
	}
	return found
}

// Free releases a pending record with a possible effect.
func (s *Store) Free(ctx context.Context, r *idempotency.Record) error {
	return wrap("free", s.take(ctx, func(w *writer) error {
		if old, err := w.same(r); err != nil || old.done || old.owner == "" {
			return orLost(err)
		}
		return w.release(idempotency.Lease{ID: r.ID, Owner: r.Owner, Fence: r.Fence}, true, 0)
	}))
}

// Forget deletes a record.
func (s *Store) Forget(ctx context.Context, r *idempotency.Record) error {
	return wrap("forget", s.take(ctx, func(w *writer) error {
		old, err := w.same(r)
		if err != nil {
			return err
		}
		w.remove(r.ID, old)
		w.changed = append(w.changed, r.ID)
		return nil
	}))
}

// same returns the record that an operator has found, if it has not changed since.
func (w *writer) same(found *idempotency.Record) (*record, error) {
	old, err := w.get(found.ID)
	if err != nil {
		return nil, err
	}
	if old == nil || old.fence != found.Fence || old.owner != found.Owner || old.done != (found.State == idempotency.Done) ||
		found.State == idempotency.Pending && found.Left <= 0 && old.until > w.now {
		return nil, idempotency.ErrLeaseLost
	}
	return old, nil
}

func orLost(err error) error {
	if err == nil {
		err = idempotency.ErrLeaseLost
	}
	return err
}
