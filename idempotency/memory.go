package idempotency

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"
)

// Memory is a [Store] in the memory of one process. It is bounded: when it is
// full it refuses new IDs, and never gives up one that is pending or whose
// retention lasts. What it keeps is gone when the process ends. Records whose time is
// over are dropped as claims come: one or two for each, some at a time.
//
// Records are kept in shards, each with its lock. Each shard has a calendar of
// when its records are due to be dropped, so that nothing is ever scanned, and
// keeps them in slabs that are used again, so that a store in use allocates
// little and leaves the garbage collector little to look at.
type Memory struct {
	shards   []shard
	capacity int // of each shard
	seed     maphash.Seed
	begun    time.Time // what the store's time counts from
	err      error     // what was wrong with the options
}

// mostShardBits is the logarithm of the most shards, and leastOfShard how many
// records one has room for, if there are others.
const (
	mostShardBits = 6
	leastOfShard  = 4096
)

// shard ends with what every claim changes, in two cache lines. Its last few records are
// fresh: they are in a group of their own, and put into the table and on the calendar
// together, when most of them are done.
type shard struct {
	records table
	due     calendar
	_       [40]byte
	slab    slab
	mu      sync.Mutex
	claims  uint64 // how many there were: the fence of each, which outlives its record
	n       int    // how many records there are
	_       [32]byte
	fresh   struct {
		tags  tags
		slots slots
	}
	_ [8]byte
}

// memoryRecord is two cache lines: what is looked at to find a record and to drop it,
// and the rest. Of names and fingerprints it has hashes, which nobody can choose.
type memoryRecord struct {
	id    ID
	until time.Duration // the end of the lease, or of the retention
	page  int32         // of the calendar, or noPage while it is fresh, or its slot free
	place uint32        // on its page
	after slot          // the next that is free, if it is
	hash  uint32        // by which the table knows it
	done  bool

	owner   uint64
	request requestHash
	fence   uint64
	outcome []byte
	changed chan struct{} // closed when it ceases to be pending or to be its owner's; nil if nobody waits
}

// requestHash is a fingerprint, hashed. The zero value is none.
type requestHash struct{ schema, sum uint64 }

// request hashes a fingerprint.
func (m *Memory) request(f *Fingerprint) requestHash {
	if f.Schema == "" {
		return requestHash{}
	}
	return requestHash{maphash.String(m.seed, f.Schema), maphash.Bytes(m.seed, f.Sum[:])}
}

// differs is as [Fingerprint.Differs] has it.
func (h requestHash) differs(other requestHash) bool {
	return h.schema == other.schema && h.sum != other.sum
}

// due returns when the record may be dropped.
func (r *memoryRecord) due() time.Duration {
	if r.done {
		return r.until
	}
	return r.until + abandoned
}

// MemoryOption configures a [Memory].
type MemoryOption func(*memorySettings)

type memorySettings struct {
	capacity int
	errs     []error
}

const defaultCapacity = 1 << 20

// MemoryCapacity bounds the number of records, pending and done. A store of more
// than some thousand refuses the first a few percent sooner, because it is full in
// one of its parts; and a record has its place for up to a second after a retention
// of more than a minute. The default is a million.
func MemoryCapacity(records int) MemoryOption {
	return func(s *memorySettings) {
		s.capacity = records
		if records <= 0 {
			s.errs = append(s.errs, fmt.Errorf("MemoryCapacity(%d): must be positive", records))
		}
	}
}

// abandoned is how long a pending record is kept after its lease has run out, so
// that its owner may still complete it if nobody takes over.
const abandoned = time.Hour

// NewMemory returns an empty store. It starts no goroutine. [Memory.Err] returns what
// is wrong with the options, and a server that is given the store does too.
func NewMemory(opts ...MemoryOption) *Memory {
	s := memorySettings{capacity: defaultCapacity}
	for i, opt := range opts {
		if opt == nil {
			s.errs = append(s.errs, fmt.Errorf("option %d is nil", i+1))
			continue
		}
		opt(&s)
	}
	shards := 1 << mostShardBits
	for shards > 1 && s.capacity/shards < leastOfShard {
		shards /= 2
	}
	m := &Memory{
		shards:   make([]shard, shards),
		capacity: max(1, s.capacity/shards),
		seed:     maphash.MakeSeed(), // so that nobody can choose keys that meet
		begun:    time.Now(),
		err:      errors.Join(s.errs...),
	}
	for i := range m.shards {
		m.shards[i].records = newTable()
		m.shards[i].due = newCalendar()
	}
	return m
}

var _ Store = (*Memory)(nil)

// Err returns what was wrong with the options of [NewMemory], joined, or nil.
func (m *Memory) Err() error { return m.err }

// Kind returns "memory", as metrics name the store.
func (m *Memory) Kind() string { return "memory" }

// clamp bounds a time to what can be added to another.
func clamp(d time.Duration) time.Duration {
	const longest = 100 * 365 * 24 * time.Hour
	return max(0, min(d, longest))
}

// now returns the store's time.
func (m *Memory) now() time.Duration { return time.Since(m.begun) }

// hash returns what tables know an ID by.
func (m *Memory) hash(id *ID) uint32 { return uint32(maphash.Bytes(m.seed, id[:])) } //nolint:gosec // as many bits as are needed

// owner hashes the name of an owner.
func (m *Memory) owner(name string) uint64 { return maphash.String(m.seed, name) }

// shard returns where an ID is kept. IDs are hashes, so that any of their bits
// will do.
func (m *Memory) shard(id *ID) *shard {
	return &m.shards[binary.BigEndian.Uint64(id[:])&uint64(len(m.shards)-1)] //nolint:gosec // there are some
}

// Begin claims a write, or tells what is known of it.
func (m *Memory) Begin(ctx context.Context, claim Claim) (Begun, error) {
	if err := ctx.Err(); err != nil {
		return Begun{}, fmt.Errorf("begin: %w", err)
	}
	if claim.Owner == "" || claim.Lease <= 0 {
		return Begun{}, errors.New("idempotency: a claim needs an owner, and a lease of more than nothing")
	}
	owner, request, hash := m.owner(claim.Owner), m.request(&claim.Fingerprint), m.hash(&claim.ID)
	s := m.shard(&claim.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.now()
	s.claims++
	if s.claims%batch == 0 || s.n >= m.capacity {
		s.tidy(now)
	}
	at, r := s.find(&claim.ID, hash)
	if r != nil && r.done && r.until <= now {
		s.remove(at, r)
		r = nil
	}
	until := now + clamp(claim.Lease)
	switch {
	case r == nil && s.n >= m.capacity:
		return Begun{}, ErrFull
	case r == nil:
		r = s.add(&claim.ID, hash, until)
		s.give(r, owner, request)
		return Begun{State: Run, Fence: r.fence}, nil
	case request.differs(r.request):
		return Begun{State: Reused}, nil
	case r.done:
		return Begun{State: Replay, Outcome: r.outcome}, nil
	case r.owner == owner: // asked again, for want of an answer
		return Begun{State: Run, Fence: r.fence}, nil
	case r.until > now:
		return Begun{State: Join}, nil
	}
	s.keep(r, until, now)
	s.give(r, owner, request)
	r.tell()
	return Begun{State: Run, Fence: r.fence, TakenOver: true}, nil
}

// add adds a record that is pending, and is to be given to its owner. There is room for it
// among those that are fresh: a shard is tidied before there are more claims than that.
func (s *shard) add(id *ID, hash uint32, until time.Duration) *memoryRecord {
	at := s.slab.take()
	r := s.slab.at(at)
	r.id, r.hash, r.until, r.done, r.page = *id, hash, until, false, noPage
	s.n++
	s.fresh.tags.add(&s.fresh.slots, entry{at, hash})
	return r
}

// give gives a record to the owner of a claim.
func (s *shard) give(r *memoryRecord, owner uint64, request requestHash) {
	r.owner, r.request, r.fence = owner, request, s.claims
}

// find returns the record of an ID with this hash and its slot, or nil if there is none.
func (s *shard) find(id *ID, hash uint32) (slot, *memoryRecord) {
	for p := s.fresh.tags.places(tagOf(hash)); p != 0; p = p.others() {
		at := s.fresh.slots[p.first()]
		if r := s.slab.at(at); r.id == *id {
			return at, r
		}
	}
	at := s.records.get(&s.slab, id, hash)
	if at == none {
		return none, nil
	}
	return at, s.slab.at(at)
}

// keep sets until when a record is what it is.
func (s *shard) keep(r *memoryRecord, until, now time.Duration) {
	r.until = until
	if r.page == noPage {
		return // it gets a page when it is filed
	}
	if due := instantOf(r.due(), now); due != s.due.pages[r.page].at {
		s.due.add(&s.slab, s.due.remove(&s.slab, r), due)
	}
}

// Complete ends a write with its outcome.
func (m *Memory) Complete(ctx context.Context, lease Lease, outcome []byte, retention time.Duration) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	hash, owner := m.hash(&lease.ID), m.owner(lease.Owner)
	s := m.shard(&lease.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.now()
	_, r := s.find(&lease.ID, hash)
	if !r.is(owner, lease.Fence) {
		return ErrLeaseLost
	}
	if r.done { // asked again, for want of an answer
		return nil
	}
	r.done, r.outcome = true, outcome
	s.keep(r, now+clamp(retention), now)
	r.tell()
	return nil
}

// Extend makes the lease last for d from now.
func (m *Memory) Extend(ctx context.Context, lease Lease, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("extend: %w", err)
	}
	hash, owner := m.hash(&lease.ID), m.owner(lease.Owner)
	s := m.shard(&lease.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.now()
	_, r := s.find(&lease.ID, hash)
	if !r.is(owner, lease.Fence) || r.done {
		return ErrLeaseLost
	}
	s.keep(r, max(r.until, now+clamp(d)), now)
	return nil
}

// Release gives up a write that had no effect.
func (m *Memory) Release(ctx context.Context, lease Lease) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	hash, owner := m.hash(&lease.ID), m.owner(lease.Owner)
	s := m.shard(&lease.ID)
	s.mu.Lock()
	defer s.mu.Unlock()
	at, r := s.find(&lease.ID, hash)
	switch {
	case r == nil:
		return nil
	case !r.is(owner, lease.Fence), r.done:
		return ErrLeaseLost
	}
	s.remove(at, r)
	return nil
}

// Wait returns when the record may have ceased to be pending.
func (m *Memory) Wait(ctx context.Context, id ID) error {
	hash := m.hash(&id)
	s := m.shard(&id)
	s.mu.Lock()
	now := m.now()
	_, r := s.find(&id, hash)
	if r == nil || r.done || r.until <= now {
		s.mu.Unlock()
		return ctx.Err()
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	changed, left := r.changed, r.until-now
	s.mu.Unlock()
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-changed:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Len returns how many records there are, pending and done, and those that are
// due to be dropped and have not been yet.
func (m *Memory) Len() int {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += s.n
		s.mu.Unlock()
	}
	return n
}

// remove removes a record before it is due, or dropped.
func (s *shard) remove(at slot, r *memoryRecord) {
	r.tell()
	e := entry{at, r.hash}
	if r.page == noPage {
		s.fresh.tags.remove(&s.fresh.slots, e)
	} else {
		s.records.remove(e)
		s.due.remove(&s.slab, r)
	}
	s.n--
	s.slab.free(at)
}

// is tells whether there is a record and it is an owner's.
func (r *memoryRecord) is(owner, fence uint64) bool {
	return r != nil && r.owner == owner && r.fence == fence
}

// tell wakes those who wait for the record.
func (r *memoryRecord) tell() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

const (
	batch  = groupLen // after how many claims a shard is tidied: no more than there is room for
	behind = 4 * near // how late a record may be dropped while others come as fast
)

// tidy files the fresh records and drops those that are due: as many as there were claims
// since the last time, and as many again if they should have been dropped before, which is
// more than come. To do so to many together takes little more time than to one, since the
// processor fetches them from memory at once; and what is dropped is so little that it is
// used again while it is in its cache.
func (s *shard) tidy(now time.Duration) {
	s.file(now)
	for _, now := range [...]time.Duration{now, now - behind} {
		for most := batch; most > 0; {
			due := s.due.take(now, most)
			if len(due) == 0 {
				return
			}
			s.drop(due)
			most -= len(due)
		}
	}
}

// file puts the fresh records into the table and on the calendar.
func (s *shard) file(now time.Duration) {
	s.records.reserve(&s.slab, s.n)
	fresh := make([]entry, 0, groupLen)
	for i, at := range s.fresh.slots {
		if s.fresh.tags.of[i] != 0 {
			fresh = append(fresh, entry{at, s.slab.at(at).hash})
		}
	}
	s.records.fetch(fresh)
	for _, e := range fresh {
		s.due.add(&s.slab, e, instantOf(s.slab.at(e.at).due(), now))
		s.records.add(e)
	}
	s.fresh.tags = tags{}
}

// drop drops records that were taken off the calendar. Nobody waits for them any more:
// whoever did has left when the lease was over, or was told that the write was done.
func (s *shard) drop(due []entry) {
	s.records.fetch(due)
	for _, e := range due {
		s.slab.free(e.at)
	}
	for _, e := range due {
		s.records.remove(e)
	}
	s.n -= len(due)
}
