package pgstore

import (
	"context"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
)

// pageSize is how many records are read at once.
const pageSize = 500

// Find returns the record of an ID, or nil if there is none.
func (s *Store) Find(ctx context.Context, id idempotency.ID) (*idempotency.Record, error) {
	rows, err := s.own.Query(ctx, s.sql.find, id[:])
	if err != nil {
		return nil, wrap("find", err)
	}
	found, err := pgx.CollectRows(rows, scanRecord)
	if err != nil || len(found) == 0 {
		return nil, wrap("find", err)
	}
	return found[0], nil
}

// Records returns all records, in the order of their IDs.
func (s *Store) Records(ctx context.Context) iter.Seq2[*idempotency.Record, error] {
	return func(yield func(*idempotency.Record, error) bool) {
		after := []byte{}
		for {
			rows, err := s.own.Query(ctx, s.sql.list, after, pageSize)
			if err == nil {
				var found []*idempotency.Record
				found, err = pgx.CollectRows(rows, scanRecord)
				for _, r := range found {
					if !yield(r, nil) {
						return
					}
				}
				if err == nil && len(found) < pageSize {
					return
				}
				if len(found) > 0 {
					last := found[len(found)-1].ID
					after = last[:]
				}
			}
			if err != nil {
				yield(nil, wrap("records", err))
				return
			}
		}
	}
}

func scanRecord(from pgx.CollectableRow) (*idempotency.Record, error) {
	var (
		r                  idempotency.Record
		id                 []byte
		fence              int64
		done, effect, live bool
		left, age          float64
	)
	if err := from.Scan(&id, &r.Owner, &fence, &done, &effect, &live, &left, &age, &r.Attempts, &r.Method, &r.KeyHash, &r.Checkpoint, &r.Outcome); err != nil {
		return nil, err
	}
	if copy(r.ID[:], id) != len(r.ID) || len(id) != len(r.ID) {
		return nil, fmt.Errorf("%w: its ID has %d bytes", idempotency.ErrCorrupt, len(id))
	}
	r.Fence = uint64(fence) //nolint:gosec // it is not negative
	r.Left, r.Age = seconds(left), seconds(age)
	switch {
	case done:
		r.State = idempotency.Done
	case r.Owner == "":
		r.State, r.TakenOver = idempotency.Released, effect
	default:
		r.State, r.TakenOver = idempotency.Pending, effect || !live
	}
	return &r, nil
}

func seconds(s float64) time.Duration {
	const longest = math.MaxInt64 / 2
	return time.Duration(min(max(s*float64(time.Second), -longest), longest))
}

// Free releases a pending record with a possible effect.
func (s *Store) Free(ctx context.Context, r *idempotency.Record) error {
	return s.operate(ctx, "free", r, s.sql.free, r.ID[:], r.Owner, int64(r.Fence), s.channel, r.ID.String(), micros(minKeep)) //nolint:gosec // the store has drawn it
}

// Forget deletes a record.
func (s *Store) Forget(ctx context.Context, r *idempotency.Record) error {
	return s.operate(ctx, "forget", r, s.sql.forget, r.ID[:], r.Owner, int64(r.Fence), r.State == idempotency.Done, r.State == idempotency.Pending && r.Left <= 0) //nolint:gosec // the store has drawn it
}

// operate takes a step of an operator, which changes one row unless the record has changed.
func (s *Store) operate(ctx context.Context, step string, r *idempotency.Record, sql string, args ...any) error {
	tag, err := s.own.Exec(ctx, sql, args...)
	switch {
	case err != nil:
		return wrap(step, err)
	case tag.RowsAffected() == 0:
		return idempotency.ErrLeaseLost
	default:
		s.waiting.Wake(r.ID)
		return nil
	}
}
