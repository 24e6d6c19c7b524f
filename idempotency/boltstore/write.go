package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	bolt "go.etcd.io/bbolt"
)

// maxBatch is how many steps are written together at most.
const maxBatch = 1024

var errClosed = errors.New("the store is closed")

// step is a step that is to be written.
type step struct {
	ctx  context.Context
	take func(w *writer) error
	err  error
	done chan struct{} // closed when the step has ended, after err is set
}

// take passes a step to the goroutine that writes, and waits until the step is on the disk. If ctx
// ends first, it is unknown whether the step is taken.
func (s *Store) take(ctx context.Context, take func(w *writer) error) error {
	st := &step{ctx: ctx, take: take, done: make(chan struct{})}
	select {
	case s.steps <- st:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return errClosed
	}
	select {
	case <-st.done:
		return st.err
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stopped: // a step that was not taken by now never is
		select {
		case <-st.done:
			return st.err
		default:
			return errClosed
		}
	}
}

// write writes steps until the store is closed. Steps that have arrived during a write are written
// together by the next write.
func (s *Store) write() {
	defer close(s.stopped)
	steps := make([]*step, 0, maxBatch)
	for {
		steps = steps[:0]
		select {
		case st := <-s.steps:
			steps = append(steps, st)
		case <-s.closing:
			s.refuse()
			return
		}
		for more := true; more && len(steps) < maxBatch; {
			select {
			case st := <-s.steps:
				steps = append(steps, st)
			default:
				more = false
			}
		}
		s.commit(steps)
	}
}

// refuse ends the steps that have arrived too late.
func (s *Store) refuse() {
	for {
		select {
		case st := <-s.steps:
			st.err = errClosed
			close(st.done)
		default:
			return
		}
	}
}

// commit takes steps in one transaction. If the transaction fails, all steps fail.
func (s *Store) commit(steps []*step) {
	w := &writer{}
	dropped := 0
	err := s.db.Update(func(tx *bolt.Tx) error {
		*w = writer{
			now:     s.now(),
			records: tx.Bucket([]byte(bucketRecords)),
			due:     tx.Bucket([]byte(bucketDue)),
			meta:    tx.Bucket([]byte(bucketMeta)),
		}
		for _, st := range steps {
			if st.err = st.ctx.Err(); st.err == nil {
				st.err = st.take(w)
			}
		}
		dropped = w.drop(2*len(steps) + 1) // more records than the steps add
		var now [8]byte
		binary.BigEndian.PutUint64(now[:], uint64(w.now)) //nolint:gosec // prepare reverses it
		return errors.Join(w.failed, w.meta.Put([]byte(keyTime), now[:]))
	})
	if err == nil {
		s.purged.Add(int64(dropped))
	} else {
		s.failures.Add(1)
	}
	for _, st := range steps {
		if err != nil {
			st.err = err
		}
		close(st.done)
	}
	for _, id := range w.changed {
		s.waiting.Wake(id)
	}
}

// writer takes steps in a transaction. If bbolt returns an error, it is in failed, and no step is
// written.
type writer struct {
	now                time.Duration
	records, due, meta *bolt.Bucket
	changed            []idempotency.ID // whose waiters look at the record again
	failed             error
}

// claim claims a write, or returns its state.
func (w *writer) claim(claim *idempotency.Claim) (result idempotency.BeginResult, err error) {
	err = w.change(claim.ID, func(r *idempotency.StoredRecord) error {
		if result = r.Ask(claim, w.now); result.State != idempotency.Absent {
			return nil
		}
		fence, err := w.records.NextSequence()
		w.try(err)
		result = r.Claim(claim, fence, w.now)
		return err
	})
	return result, err
}

// change takes a step with the record of an ID, and writes the record. If the step fails, it writes
// nothing.
func (w *writer) change(id idempotency.ID, step func(r *idempotency.StoredRecord) error) error {
	r, err := read(w.records, id)
	if err != nil {
		return err
	}
	end := dueKey(id, r)
	if err := step(r); err != nil {
		return err
	}
	w.try(w.due.Delete(end))
	if r.State() == "" {
		w.try(w.records.Delete(id[:]))
	} else {
		w.try(w.records.Put(id[:], encode(r)))
		w.try(w.due.Put(dueKey(id, r), nil))
	}
	w.changed = append(w.changed, id)
	return nil
}

func (w *writer) try(err error) {
	if w.failed == nil {
		w.failed = err
	}
}

func dueKey(id idempotency.ID, r *idempotency.StoredRecord) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(0, r.End()))), id[:]...)
}

// drop deletes up to limit records whose End has passed, and returns how many it has deleted. It
// reads them in the order of their ends, and reads no other records.
func (w *writer) drop(limit int) int {
	var due [][]byte
	c := w.due.Cursor()
	for key, _ := c.First(); key != nil && len(due) < limit; key, _ = c.Next() {
		if len(key) == 8+len(idempotency.ID{}) && binary.BigEndian.Uint64(key) > uint64(max(0, w.now)) {
			break
		}
		due = append(due, append([]byte(nil), key...))
	}
	for _, key := range due {
		w.try(w.due.Delete(key))
		if len(key) > 8 {
			w.try(w.records.Delete(key[8:]))
		}
	}
	return len(due)
}
