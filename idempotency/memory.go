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
}

// mostShardBits is the logarithm of the most shards, and leastOfShard how many
// records one has room for, if there are others.
const (
	mostShardBits = 6
	leastOfShard  = 4096
)

// shard begins with what every claim changes, in one cache line.
type shard struct {
	mu      sync.Mutex
	claims  uint64 // how many there were: the fence of each, which outlives its record
	records table
	slab    slab
	due     calendar
	_       [64]byte // shards do not share a cache line
}

// memoryRecord is two cache lines: what is looked at to find a record and to drop it,
// and the rest. Of names and fingerprints it has hashes, which nobody can choose.
type memoryRecord struct {
	id     ID
	until  time.Duration // the end of the lease, or of the retention
	page   int32         // of the calendar, on which it is between others
	before slot
	after  slot   // or the next that is free
	hash   uint32 // by which the table knows it
	done   bool

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

type memorySettings struct{ capacity int }

const defaultCapacity = 1 << 20

// MemoryCapacity bounds the number of records, pending and done. A store of more
// than some thousand refuses the first a few percent sooner, because it is full in
// one of its parts; and a record has its place for up to a second after a retention
// of more than a minute. The default is a million.
func MemoryCapacity(records int) MemoryOption {
	return func(s *memorySettings) { s.capacity = records }
}

// abandoned is how long a pending record is kept after its lease has run out, so
// that its owner may still complete it if nobody takes over.
const abandoned = time.Hour

// NewMemory returns an empty store. It starts no goroutine.
func NewMemory(opts ...MemoryOption) *Memory {
	s := memorySettings{capacity: defaultCapacity}
	for _, opt := range opts {
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
	}
	for i := range m.shards {
		m.shards[i].records = newTable()
		m.shards[i].due = newCalendar()
	}
	return m
}

var _ Store = (*Memory)(nil)

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
	if s.claims%batch == 0 || s.records.n >= m.capacity {
		s.drop(now)
	}
	r := s.find(&claim.ID, hash)
	if r != nil && r.done && r.until <= now {
		s.remove(r)
		r = nil
	}
	until := now + clamp(claim.Lease)
	switch {
	case r == nil && s.records.n >= m.capacity:
		return Begun{}, ErrFull
	case r == nil:
		r = s.add(&claim.ID, hash, until, now)
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

// add adds a record that is pending, and is to be given to its owner.
func (s *shard) add(id *ID, hash uint32, until, now time.Duration) *memoryRecord {
	at := s.slab.take()
	r := s.slab.at(at)
	r.id, r.hash, r.until, r.done = *id, hash, until, false
	s.records.add(at, hash)
	s.due.add(&s.slab, at, instantOf(r.due(), now))
	return r
}

// give gives a record to the owner of a claim.
func (s *shard) give(r *memoryRecord, owner uint64, request requestHash) {
	r.owner, r.request, r.fence = owner, request, s.claims
}

// find returns the record of an ID with this hash, or nil if there is none.
func (s *shard) find(id *ID, hash uint32) *memoryRecord {
	at := s.records.get(&s.slab, id, hash)
	if at == none {
		return nil
	}
	return s.slab.at(at)
}

// keep sets until when a record is what it is.
func (s *shard) keep(r *memoryRecord, until, now time.Duration) {
	r.until = until
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
	r := s.find(&lease.ID, hash)
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
	r := s.find(&lease.ID, hash)
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
	r := s.find(&lease.ID, hash)
	switch {
	case r == nil:
		return nil
	case !r.is(owner, lease.Fence), r.done:
		return ErrLeaseLost
	}
	s.remove(r)
	return nil
}

// Wait returns when the record may have ceased to be pending.
func (m *Memory) Wait(ctx context.Context, id ID) error {
	hash := m.hash(&id)
	s := m.shard(&id)
	s.mu.Lock()
	now := m.now()
	r := s.find(&id, hash)
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
		n += s.records.n
		s.mu.Unlock()
	}
	return n
}

func (s *shard) remove(r *memoryRecord) {
	r.tell()
	at := s.due.remove(&s.slab, r)
	s.records.remove(at, r.hash)
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
	batch  = 16       // how many claims may come before records are dropped
	behind = 4 * near // how late one may be dropped while others come as fast
)

// drop drops records that are due, as many as there were claims since the last time, and
// as many again if they should have been dropped before: more than come. Together they
// take little more time than one, since the processor fetches all of them from memory
// at once; and they are few enough to be used again while they are in its cache.
func (s *shard) drop(now time.Duration) {
	for n := range 2 * batch {
		if n == batch {
			now -= behind
		}
		at := s.due.first(now)
		if at == none {
			return
		}
		s.remove(s.slab.at(at))
	}
}
