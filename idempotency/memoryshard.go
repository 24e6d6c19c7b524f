package idempotency

import (
	"sync"
	"time"
)

const shardCount = 64

// shard is a part of the records, with a lock of its own. Its maps have no pointers, so that the
// garbage collector does not scan them.
type shard struct {
	room    *memoryRoom
	mu      sync.Mutex
	index   map[ID]place
	records []memoryRecord // the first is unused, so that no record has place 0
	free    []place
	due     map[int64]place // by second of the store's time, the first of the records to check then
	next    int64           // the next second whose records are to be checked
	fence   uint64          // the last one used; it outlives the records
}

// place is the index of a record in its shard. 0 is none.
type place int32

// memoryRecord is a record and its bookkeeping.
type memoryRecord struct {
	StoredRecord

	id           ID
	running      Running       // of the claim, while the record is pending
	due          int64         // the second in which it is checked; 0 if it is in no list
	before, next place         // its neighbours in the list of that second
	size         int64         // the bytes that it counts as
	tenant       *use          // nil if it has none
	waited       chan struct{} // closed when the record is no longer pending; nil if nobody waits
}

// recordBytes is about how much memory a record takes, without its owner and its data: its entries
// in the slab and in the map, which have room to grow.
const recordBytes = 400

func newShard(room *memoryRoom) shard {
	return shard{room: room, index: map[ID]place{}, due: map[int64]place{}, records: make([]memoryRecord, 1)}
}

// find returns the record of an ID, or nil if there is none or it has expired. The pointer is valid
// until the next record is added.
func (s *shard) find(id ID, now time.Duration) *memoryRecord {
	at, ok := s.index[id]
	if !ok || s.records[at].expired(now) {
		return nil
	}
	return &s.records[at]
}

// expired reports whether a record may be dropped. It extends the lease of a record whose owner's
// handler runs.
func (r *memoryRecord) expired(now time.Duration) bool {
	if r.running != nil && r.running.Load() {
		r.Until = max(r.Until, now+1)
	}
	return r.End() <= now
}

// changed counts a record's bytes again, sets when it is checked, and wakes the callers that wait
// if it is no longer pending.
func (s *shard) changed(r *memoryRecord, now time.Duration) {
	s.resize(r)
	s.file(r, now)
	if r.State() != Pending {
		r.running = nil
		r.wake()
	}
}

func (r *memoryRecord) wake() {
	if r.waited != nil {
		close(r.waited)
		r.waited = nil
	}
}

// resize counts the bytes of a record again.
func (s *shard) resize(r *memoryRecord) {
	more := recordBytes + int64(len(r.Owner)+len(r.Data)) - r.size
	r.size += more
	s.room.grow(r.tenant, more)
}

// add adds an empty record, and removes an expired one of the same ID. It returns how full the
// store then is. If that is above 1, there is no room, and the record is nil.
func (s *shard) add(id ID, tenant string) (*memoryRecord, float64) {
	if at, ok := s.index[id]; ok {
		s.remove(&s.records[at])
	}
	of, fill := s.room.take(tenant)
	if fill > 1 {
		return nil, fill
	}
	var at place
	if n := len(s.free); n > 0 {
		at, s.free = s.free[n-1], s.free[:n-1]
	} else {
		at = place(len(s.records)) //nolint:gosec // bounded by the capacity
		s.records = append(s.records, memoryRecord{})
	}
	s.index[id] = at
	s.records[at] = memoryRecord{id: id, tenant: of, size: recordBytes}
	return &s.records[at], fill
}

func (s *shard) remove(r *memoryRecord) {
	r.wake()
	s.unfile(r)
	s.room.give(r.tenant, r.size)
	at := s.index[r.id]
	delete(s.index, r.id)
	*r = memoryRecord{}
	s.free = append(s.free, at)
}

// soonest returns the first second in which a record is due, or 0 if there is none.
func (s *shard) soonest() (first int64) {
	for due := range s.due {
		if first == 0 || due < first {
			first = due
		}
	}
	return first
}

// late is how many seconds after its end a record may be dropped. Until then it takes room, but is
// not replayed.
const late = 10

// file puts a record into the list of the second in which it ends. If the record is in an earlier
// list, or in one that is at most late seconds later, it stays there.
func (s *shard) file(r *memoryRecord, now time.Duration) {
	second := int64(max(r.End(), now)/time.Second) + 1
	if r.due != 0 && second >= r.due-late {
		return // it is checked soon enough, and filed again then
	}
	s.unfile(r)
	at := s.index[r.id]
	r.due, r.next = second, s.due[second]
	if r.next != 0 {
		s.records[r.next].before = at
	}
	s.due[second] = at
}

// unfile takes a record out of its list.
func (s *shard) unfile(r *memoryRecord) {
	switch {
	case r.due == 0:
		return
	case r.before != 0:
		s.records[r.before].next = r.next
	case r.next != 0:
		s.due[r.due] = r.next
	default:
		delete(s.due, r.due)
	}
	if r.next != 0 {
		s.records[r.next].before = r.before
	}
	r.due, r.before, r.next = 0, 0, 0
}

// drop checks up to limit records that are due. It drops those that have expired, files the others
// again, and returns how many it has dropped.
func (s *shard) drop(now time.Duration, limit int) (dropped int64) {
	for s.next <= int64(now/time.Second) && limit > 0 {
		at := s.due[s.next]
		if at == 0 {
			s.next++
			continue
		}
		limit--
		if r := &s.records[at]; r.expired(now) {
			s.remove(r)
			dropped++
		} else {
			s.unfile(r)
			s.file(r, now)
		}
	}
	return dropped
}
