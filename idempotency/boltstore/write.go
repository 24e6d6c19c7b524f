package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	bolt "go.etcd.io/bbolt"
)

// mostAtOnce is how many steps are written together.
const mostAtOnce = 1024

var errClosed = errors.New("the store is closed")

// step is one step on its way to the disk. Its error is there when it is done.
type step struct {
	ctx  context.Context
	take func(w *writer) error
	err  error
	done chan struct{}
}

// take has a step written, and waits for it or for the end of ctx: the step may
// then be taken or not.
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
	case <-s.gone: // and what was not taken by then never is
		select {
		case <-st.done:
			return st.err
		default:
			return errClosed
		}
	}
}

// write writes steps until the store is closed: all that have come while the last
// were written, at once.
func (s *Store) write() {
	defer close(s.gone)
	steps := make([]*step, 0, mostAtOnce)
	for {
		steps = steps[:0]
		select {
		case st := <-s.steps:
			steps = append(steps, st)
		case <-s.closing:
			s.refuse()
			return
		}
		for more := true; more && len(steps) < mostAtOnce; {
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

// refuse ends the steps that have come too late.
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

// commit takes steps in one transaction. If that fails, it fails for all of them.
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
		dropped = w.drop(2*len(steps) + 1)
		var now [8]byte
		binary.BigEndian.PutUint64(now[:], uint64(w.now)) //nolint:gosec // it is read as it is written
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

// clamp bounds a time to what can be added to another.
func clamp(d time.Duration) time.Duration {
	const longest = 100 * 365 * 24 * time.Hour
	return max(0, min(d, longest))
}

// writer takes steps in a transaction. An error of bbolt's is kept in failed, and
// undoes all of them.
type writer struct {
	now                int64
	records, due, meta *bolt.Bucket
	changed            []idempotency.ID // are not pending any more
	failed             error
}

// get returns a record, or nil if there is none.
func (w *writer) get(id idempotency.ID) (*record, error) {
	raw := w.records.Get(id[:])
	if raw == nil {
		return nil, nil //nolint:nilnil // none
	}
	return parse(raw)
}

// put writes a record in the place of another, or of none.
func (w *writer) put(id idempotency.ID, old, r *record) {
	w.undue(id, old)
	w.try(w.records.Put(id[:], r.encode()))
	w.try(w.due.Put(dueKey(id, r), nil))
}

// remove deletes a record.
func (w *writer) remove(id idempotency.ID, old *record) {
	w.undue(id, old)
	w.try(w.records.Delete(id[:]))
}

func (w *writer) undue(id idempotency.ID, old *record) {
	if old != nil {
		w.try(w.due.Delete(dueKey(id, old)))
	}
}

func (w *writer) try(err error) {
	if w.failed == nil {
		w.failed = err
	}
}

func dueKey(id idempotency.ID, r *record) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(max(0, r.due()))), id[:]...)
}

func (w *writer) claim(claim *idempotency.Claim) (idempotency.BeginResult, error) {
	old, err := w.get(claim.ID)
	if err != nil {
		return idempotency.BeginResult{}, err
	}
	known := old.begun(claim, w.now)
	if known.State != idempotency.Absent {
		return known, nil
	}
	fence, err := w.records.NextSequence()
	if err != nil {
		w.try(err)
		return idempotency.BeginResult{}, err
	}
	r := &record{
		fence: fence, until: w.now + int64(clamp(claim.Lease)), keep: int64(clamp(claim.KeepFor())),
		owner: claim.Owner, fingerprint: claim.Fingerprint, method: claim.Method, keyHash: claim.KeyHash,
		effect: known.TakenOver, created: w.now, attempts: 1,
	}
	if known.TakenOver {
		r.created, r.attempts, r.stored = old.created, old.attempts+1, old.stored
	}
	w.put(claim.ID, old, r)
	w.changed = append(w.changed, claim.ID) // whoever waits for the end of a lease waits for this one's
	return r.run(), nil
}

func (w *writer) complete(lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	old, err := w.get(lease.ID)
	switch {
	case err != nil:
		return err
	case old == nil || !old.owns(lease):
		return idempotency.ErrLeaseLost
	case old.done: // asked again, for want of an answer
		return nil
	}
	r := *old
	r.done, r.effect, r.stored, r.until = true, false, outcome, w.now+int64(clamp(retention))
	w.put(lease.ID, old, &r)
	w.changed = append(w.changed, lease.ID)
	return nil
}

func (w *writer) extend(lease idempotency.Lease, d time.Duration) error {
	return w.step(lease, func(r *record) { r.until = max(r.until, w.now+int64(clamp(d))) })
}

func (w *writer) save(lease idempotency.Lease, checkpoint []byte) error {
	return w.step(lease, func(r *record) { r.stored = checkpoint })
}

// step changes a pending record of its owner's.
func (w *writer) step(lease idempotency.Lease, change func(r *record)) error {
	old, err := w.get(lease.ID)
	switch {
	case err != nil:
		return err
	case old == nil || old.done || !old.owns(lease):
		return idempotency.ErrLeaseLost
	}
	r := *old
	change(&r)
	w.put(lease.ID, old, &r)
	return nil
}

func (w *writer) release(lease idempotency.Lease, effect bool, retention time.Duration) error {
	old, err := w.get(lease.ID)
	switch {
	case err != nil:
		return err
	case old == nil, !old.done && old.owner == "":
		return nil
	case !old.owns(lease) || old.done:
		return idempotency.ErrLeaseLost
	}
	if effect || old.effect {
		r := *old
		r.owner, r.effect, r.until = "", true, w.now
		r.keep = max(r.keep, int64(clamp(retention)))
		w.put(lease.ID, old, &r)
	} else {
		w.remove(lease.ID, old)
	}
	w.changed = append(w.changed, lease.ID)
	return nil
}

// drop deletes records that are due, at most some: more than one step adds. What
// is due is read in order, so that nothing is scanned. It returns how many there were.
func (w *writer) drop(most int) int {
	var due [][]byte
	c := w.due.Cursor()
	for key, _ := c.First(); key != nil && len(due) < most; key, _ = c.Next() {
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
