package idempotency

import (
	"sync"
	"time"
)

const shardCount = 64

// shard is a part of the records, with a lock of its own. The garbage collector need not
// look at its maps, since they have no pointers.
type shard struct {
	room    *memoryRoom
	mu      sync.Mutex
	index   map[ID]place
	records []memoryRecord // the first is of no ID, so that no record has place 0
	free    []place
	due     map[int64]place // the first of those to look at in a second of the store's time
	next    int64           // the second to look at next
	fence   uint64          // the last; it outlives the records
}

// place is where a record is among the records of its shard; 0 is nowhere.
type place int32

// memoryRecord is a record, and where it is in the store.
type memoryRecord struct {
	StoredRecord

	id           ID
	running      Running       // of the claim, while the record is pending
	due          int64         // the second in which it is looked at; 0 if it is not filed
	before, next place         // those that are looked at in the same second
	size         int64         // the bytes that it is taken to use
	tenant       *use          // nil if it has none
	waited       chan struct{} // closed when the record is no longer pending; nil if nobody waits
}

// recordBytes is about how much memory a record takes, beside what is stored: its place in
// the slab and in the map, which have room to grow.
const recordBytes = 400

func newShard(room *memoryRoom) shard {
	return shard{room: room, index: map[ID]place{}, due: map[int64]place{}, records: make([]memoryRecord, 1)}
}

// find returns the record of an ID, or nil if there is none or it is over. It is good
// until the next record is added.
func (s *shard) find(id ID, now time.Duration) *memoryRecord {
	at, ok := s.index[id]
	if !ok || s.records[at].over(now) {
		return nil
	}
	return &s.records[at]
}

// over reports whether a record may be dropped. If the handler of its owner runs, the record's
// lease does not end before the handler does.
func (r *memoryRecord) over(now time.Duration) bool {
	if r.running != nil && r.running.Load() {
		r.Until = max(r.Until, now+1)
	}
	return r.End() <= now
}

// changed files a record that has changed, and wakes those who wait for the end of a run.
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

// resize counts the bytes of a record that has changed.
func (s *shard) resize(r *memoryRecord) {
	more := recordBytes + int64(len(r.Owner)+len(r.Data)) - r.size
	r.size += more
	s.room.grow(r.tenant, more)
}

// add adds an empty record, in the place of one that is over if there is one. It returns how
// full the store is then, and nil at more than 1: there is no room.
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

// late is by how many seconds later than it is over a record may be dropped. Until then it
// takes room, and is not replayed.
const late = 10

// file makes sure that a record is looked at when it is over, or a little later.
func (s *shard) file(r *memoryRecord, now time.Duration) {
	second := int64(max(r.End(), now)/time.Second) + 1
	if r.due != 0 && second >= r.due-late {
		return // it is looked at soon enough, and filed again then
	}
	s.unfile(r)
	at := s.index[r.id]
	r.due, r.next = second, s.due[second]
	if r.next != 0 {
		s.records[r.next].before = at
	}
	s.due[second] = at
}

// unfile takes a record out of those of its second.
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

// drop looks at some of the records that are due. It drops those that are over, and files
// the others again. It returns how many it has dropped.
func (s *shard) drop(now time.Duration, most int) (dropped int64) {
	for s.next <= int64(now/time.Second) && most > 0 {
		at := s.due[s.next]
		if at == 0 {
			s.next++
			continue
		}
		most--
		if r := &s.records[at]; r.over(now) {
			s.remove(r)
			dropped++
		} else {
			s.unfile(r)
			s.file(r, now)
		}
	}
	return dropped
}
