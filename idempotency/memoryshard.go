package idempotency

import (
	"log/slog"
	"sync"
	"time"
)

const shardCount = 64

// shard is a part of the records, with a lock of its own. The garbage collector need not
// look at its maps, since the map of records has no pointers.
type shard struct {
	mu      sync.Mutex
	index   map[ID]int32 // into records
	records []memoryRecord
	free    []int32        // places in records
	due     map[int64][]ID // what to look at in which second of the store's time
	next    int64          // the second to look at next
	fence   uint64         // the last; it outlives the records
	used    use
	tenants map[string]*use

	room, looked int64 // the first second in which there may be room, and when that was looked up
}

// use is how much is used, of a shard or by a tenant.
type use struct {
	tenant         string
	records, bytes int64
}

// memoryRecord is pending, released (without an owner) or done.
type memoryRecord struct {
	id          ID
	fence       uint64
	owner       string
	fingerprint Fingerprint
	until       time.Duration // the end of the lease, or of the retention
	keep        time.Duration // how long it is kept after that while it is pending
	due         int64         // the first second in which it is looked at; 0 if it is not filed
	size        int64         // the bytes that it is taken to use
	tenant      *use          // nil if it has none
	done        bool
	effect      bool // a run may have had an effect, and no outcome is stored
	running     Running
	stored      []byte        // the outcome or, until it is done, the checkpoint
	waited      chan struct{} // closed when it changes; nil if nobody waits
}

// recordBytes is about how much memory a record takes, beside what is stored: its place in
// the slab, the map and the list of a second, all of which have room to grow.
const recordBytes = 500

// find returns the record of an ID, or nil if there is none or it is over. It is good
// until the next record is added.
func (s *shard) find(id ID, now time.Duration) *memoryRecord {
	at, ok := s.index[id]
	if !ok || s.records[at].over(now) {
		return nil
	}
	return &s.records[at]
}

// over reports whether a record may be dropped.
func (r *memoryRecord) over(now time.Duration) bool {
	return r.until+r.keep <= now && (r.running == nil || !r.running.Load())
}

// run returns what the owner of a pending record is told.
func (r *memoryRecord) run() Begun {
	return Begun{State: Run, Fence: r.fence, TakenOver: r.effect, Checkpoint: r.stored}
}

// known returns what is known of a record: Absent if whoever asks may claim it, or if the
// record is nil.
func (r *memoryRecord) known(fingerprint Fingerprint, now time.Duration) Begun {
	switch {
	case r == nil:
		return Begun{State: Absent}
	case fingerprint.Differs(r.fingerprint):
		return Begun{State: Reused}
	case r.done:
		return Begun{State: Replay, Outcome: r.stored}
	case r.owner != "" && (r.until > now || r.running != nil && r.running.Load()):
		return Begun{State: Join}
	default:
		return Begun{State: Absent, TakenOver: r.effect || r.owner != ""}
	}
}

// changed files a record that has changed, and wakes those who wait for it.
func (s *shard) changed(r *memoryRecord, now time.Duration) {
	s.account(r)
	s.file(r, now)
	r.wake()
}

func (r *memoryRecord) wake() {
	if r.waited != nil {
		close(r.waited)
		r.waited = nil
	}
}

// add adds an empty record, in the place of one that is over if there is one.
func (s *shard) add(id ID, tenant string) *memoryRecord {
	at, ok := s.index[id]
	switch {
	case ok:
		s.remove(&s.records[at])
		return s.add(id, tenant)
	case len(s.free) > 0:
		at, s.free = s.free[len(s.free)-1], s.free[:len(s.free)-1]
	default:
		at = int32(len(s.records)) //nolint:gosec // bounded by the capacity
		s.records = append(s.records, memoryRecord{})
	}
	s.index[id] = at
	r := &s.records[at]
	r.id = id
	s.used.records++
	if tenant != "" {
		if s.tenants[tenant] == nil {
			s.tenants[tenant] = &use{tenant: tenant}
		}
		r.tenant = s.tenants[tenant]
		r.tenant.records++
	}
	return r
}

func (s *shard) remove(r *memoryRecord) {
	r.wake()
	at := s.index[r.id]
	delete(s.index, r.id)
	s.used.records--
	s.used.bytes -= r.size
	if t := r.tenant; t != nil {
		t.records--
		t.bytes -= r.size
		if t.records == 0 {
			delete(s.tenants, t.tenant)
		}
	}
	*r = memoryRecord{}
	s.free = append(s.free, at)
}

// account counts the bytes of a record that has changed.
func (s *shard) account(r *memoryRecord) {
	more := recordBytes + int64(len(r.owner)+len(r.stored)) - r.size
	r.size += more
	s.used.bytes += more
	if r.tenant != nil {
		r.tenant.bytes += more
	}
}

// warnAt is how full a shard is when the store warns.
const warnAt = 0.8

// fill returns how full the shard, or a tenant's share of it, is with one more record. At more
// than 1 there is no room.
func (s *shard) fill(limit *use, tenant string) float64 {
	fill := s.used.fill(limit)
	if tenant == "" {
		return fill
	}
	var mine use
	if t := s.tenants[tenant]; t != nil {
		mine = *t
	}
	share := use{
		records: max(1, (limit.records-(s.used.records-mine.records))/2),
		bytes:   max(recordBytes, (limit.bytes-(s.used.bytes-mine.bytes))/2),
	}
	return max(fill, mine.fill(&share))
}

func (u *use) fill(limit *use) float64 {
	return max(float64(u.records+1)/float64(limit.records), float64(u.bytes+recordBytes)/float64(limit.bytes))
}

// makeRoom makes room for one more record, warns if there is little left, and fails if there
// is none.
func (m *Memory) makeRoom(s *shard, tenant string, now time.Duration) error {
	if s.fill(&m.limit, tenant) <= warnAt {
		return nil
	}
	m.drop(s, now, 1000)
	fill := s.fill(&m.limit, tenant)
	if fill > warnAt {
		m.warn(fill, tenant)
	}
	if fill > 1 {
		return s.full(now)
	}
	return nil
}

// warn warns that there is little room, at most once an hour.
func (m *Memory) warn(fill float64, tenant string) {
	hour := int64(time.Since(m.begun)/time.Hour) + 1
	if m.warned.Swap(hour) == hour {
		return
	}
	logger := m.logger
	if logger == nil {
		logger = slog.Default()
	}
	logger.Warn("hopbound: the idempotency store in memory is nearly full, and refuses new keys when it is", "tenant", tenant,
		"percent", int(100*fill), "max_records", m.limit.records*shardCount, "max_bytes", m.limit.bytes*shardCount)
}

// full returns the error of a claim for which there is no room.
func (s *shard) full(now time.Duration) error {
	if second := int64(now/time.Second) + 1; second != s.looked { // all lists, once a second
		s.looked, s.room = second, second
		first := true
		for due := range s.due {
			if first || due < s.room {
				s.room, first = due, false
			}
		}
	}
	return &FullError{Room: max(time.Duration(s.room)*time.Second-now, time.Second)}
}

// late is by how many seconds later than it is over a record may be dropped. Until then it
// takes room, and is not replayed.
const late = 10

// file makes sure that a record is looked at when it is over, or a little later.
func (s *shard) file(r *memoryRecord, now time.Duration) {
	second := int64(max(r.until+r.keep, now)/time.Second) + 1
	if r.due == 0 || second < r.due-late {
		r.due = second
		s.due[second] = append(s.due[second], r.id)
	}
}

// drop looks at some of the records that are due. It drops those that are over, and files
// the others again.
func (m *Memory) drop(s *shard, now time.Duration, most int) {
	for s.next <= int64(now/time.Second) && most > 0 {
		ids := s.due[s.next]
		if len(ids) == 0 {
			delete(s.due, s.next)
			s.next++
			continue
		}
		most--
		id := ids[len(ids)-1]
		s.due[s.next] = ids[:len(ids)-1]
		at, ok := s.index[id]
		if !ok || s.records[at].due != s.next { // it is gone, or is looked at sooner
			continue
		}
		if r := &s.records[at]; r.over(now) {
			s.remove(r)
			m.purged.Add(1)
		} else {
			r.due = 0
			s.file(r, now)
		}
	}
}
