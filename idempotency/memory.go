package idempotency

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Memory is a [Store] in the memory of one process. It is bounded: when it is full, it
// refuses new IDs, and never drops a record that is pending or whose retention lasts.
// Its records are gone when the process ends.
//
// It never takes over a write while [Claim.Running] says that its handler runs: a process
// that stood still for longer than a lease goes on with its own runs.
type Memory struct {
	shards   [shardCount]shard
	capacity int       // of each shard
	begun    time.Time // what the store's time counts from
	err      error     // what was wrong with the options
}

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
	done        bool
	effect      bool // a run may have had an effect, and no outcome is stored
	running     Running
	outcome     []byte
	changed     chan struct{} // closed when it changes; nil if nobody waits
}

// MemoryOption configures a [Memory].
type MemoryOption func(*memorySettings)

type memorySettings struct {
	capacity int
	errs     []error
}

const defaultCapacity = 1 << 20

// MemoryCapacity bounds the number of records. The records are spread over parts that
// are bounded one by one, so that a store refuses the first IDs when it is nearly full. A
// capacity of less than 64 is rounded up to that. The default is a million.
func MemoryCapacity(records int) MemoryOption {
	return func(s *memorySettings) {
		s.capacity = records
		if records <= 0 {
			s.errs = append(s.errs, fmt.Errorf("MemoryCapacity(%d): must be positive", records))
		}
	}
}

// NewMemory returns an empty store. It starts no goroutine. [Memory.Err] returns what
// is wrong with the options, and so does a server that is given the store.
func NewMemory(opts ...MemoryOption) *Memory {
	s := memorySettings{capacity: defaultCapacity}
	for i, opt := range opts {
		if opt == nil {
			s.errs = append(s.errs, fmt.Errorf("option %d is nil", i+1))
			continue
		}
		opt(&s)
	}
	m := &Memory{
		capacity: (s.capacity + shardCount - 1) / shardCount,
		begun:    time.Now(),
		err:      errors.Join(s.errs...),
	}
	for i := range m.shards {
		m.shards[i].index, m.shards[i].due = map[ID]int32{}, map[int64][]ID{}
	}
	return m
}

var _ Store = (*Memory)(nil)

// Err returns what was wrong with the options of [NewMemory], joined, or nil.
func (m *Memory) Err() error { return m.err }

// Kind returns "memory", as metrics name the store.
func (m *Memory) Kind() string { return "memory" }

// clamp bounds a time to what can be added to others.
func clamp(d time.Duration) time.Duration {
	const longest = 70 * 365 * 24 * time.Hour
	return max(0, min(d, longest))
}

// open locks the shard of an ID, and returns it with the store's time.
func (m *Memory) open(ctx context.Context, step string, id *ID) (*shard, time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", step, err)
	}
	s := &m.shards[binary.BigEndian.Uint64(id[:])%shardCount] // IDs are hashes
	s.mu.Lock()
	return s, time.Since(m.begun), nil
}

// Begin claims a write, or tells what is known of it.
func (m *Memory) Begin(ctx context.Context, claim Claim) (Begun, error) {
	if claim.Owner == "" || claim.Lease <= 0 {
		return Begun{}, errors.New("idempotency: a claim must have an owner and a positive lease")
	}
	s, now, err := m.open(ctx, "begin", &claim.ID)
	if err != nil {
		return Begun{}, err
	}
	defer s.mu.Unlock()
	s.drop(now, 3) // more than a write adds
	r := s.find(claim.ID, now)
	if r != nil && r.owner == claim.Owner && !r.done && !claim.Fingerprint.Differs(r.fingerprint) { // asked again, for want of an answer
		return Begun{State: Run, Fence: r.fence, TakenOver: r.effect}, nil
	}
	if b := r.known(claim.Fingerprint, now); b.State != Absent {
		return b, nil
	}
	if r == nil {
		if len(s.index) >= m.capacity {
			s.drop(now, 1000)
		}
		if len(s.index) >= m.capacity {
			return Begun{}, ErrFull
		}
		r = s.add(claim.ID)
	}
	s.fence++
	r.effect = r.effect || r.owner != "" // its lease has run out
	r.fence, r.owner, r.fingerprint, r.running = s.fence, claim.Owner, claim.Fingerprint, claim.Running
	r.until, r.keep = now+clamp(claim.Lease), clamp(claim.KeepFor())
	s.file(r, now)
	r.wake()
	return Begun{State: Run, Fence: r.fence, TakenOver: r.effect}, nil
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
		return Begun{State: Replay, Outcome: r.outcome}
	case r.owner != "" && (r.until > now || r.running != nil && r.running.Load()):
		return Begun{State: Join}
	default:
		return Begun{State: Absent, TakenOver: r.effect || r.owner != ""}
	}
}

// Look tells what is known of a write, and claims nothing.
func (m *Memory) Look(ctx context.Context, claim Claim) (Begun, error) {
	s, now, err := m.open(ctx, "look", &claim.ID)
	if err != nil {
		return Begun{}, err
	}
	defer s.mu.Unlock()
	return s.find(claim.ID, now).known(claim.Fingerprint, now), nil
}

// owned opens the record of a lease. It is nil if there is none, or if it is another's.
func (m *Memory) owned(ctx context.Context, step string, lease *Lease) (s *shard, r *memoryRecord, now time.Duration, err error) {
	s, now, err = m.open(ctx, step, &lease.ID)
	if err != nil {
		return nil, nil, 0, err
	}
	if r = s.find(lease.ID, now); r != nil && (r.owner != lease.Owner || r.fence != lease.Fence) {
		r = nil
	}
	return s, r, now, nil
}

// Complete ends a write with its outcome.
func (m *Memory) Complete(ctx context.Context, lease Lease, outcome []byte, retention time.Duration) error {
	s, r, now, err := m.owned(ctx, "complete", &lease)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	switch {
	case r == nil:
		return ErrLeaseLost
	case r.done: // asked again, for want of an answer
		return nil
	}
	r.done, r.effect, r.outcome, r.running = true, false, outcome, nil
	r.until, r.keep = now+clamp(retention), 0
	s.file(r, now)
	r.wake()
	return nil
}

// Extend makes the lease last for d from now.
func (m *Memory) Extend(ctx context.Context, lease Lease, d time.Duration) error {
	s, r, now, err := m.owned(ctx, "extend", &lease)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if r == nil || r.done {
		return ErrLeaseLost
	}
	r.until = max(r.until, now+clamp(d))
	return nil
}

// Release gives up a write.
func (m *Memory) Release(ctx context.Context, lease Lease, effect bool, retention time.Duration) error {
	s, r, now, err := m.owned(ctx, "release", &lease)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	if r == nil {
		if other := s.find(lease.ID, now); other != nil && other.owner != "" {
			return ErrLeaseLost
		}
		return nil // it was released before, and the answer was lost
	}
	if r.done {
		return ErrLeaseLost
	}
	r.wake()
	if effect || r.effect {
		r.owner, r.effect, r.running = "", true, nil
		r.until, r.keep = now, clamp(max(retention, r.keep))
		s.file(r, now)
		return nil
	}
	s.remove(r)
	return nil
}

// Wait returns when the record may have ceased to be pending.
func (m *Memory) Wait(ctx context.Context, id ID) error {
	s, now, err := m.open(ctx, "wait", &id)
	if err != nil {
		return err
	}
	r := s.find(id, now)
	if r.known(Fingerprint{}, now).State != Join {
		s.mu.Unlock()
		return nil
	}
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	changed := r.changed
	// A run that goes on after its lease ends it by a step of its own.
	timer := time.NewTimer(max(r.until-now, time.Second))
	s.mu.Unlock()
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

// Len returns how many records there are, and those that have not been dropped yet.
func (m *Memory) Len() int {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += len(s.index)
		s.mu.Unlock()
	}
	return n
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

// over reports whether a record may be dropped.
func (r *memoryRecord) over(now time.Duration) bool {
	return r.until+r.keep <= now && (r.running == nil || !r.running.Load())
}

// wake wakes those who wait for a record.
func (r *memoryRecord) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// add adds an empty record, in the place of one that is over if there is one.
func (s *shard) add(id ID) *memoryRecord {
	at, ok := s.index[id]
	switch {
	case ok:
	case len(s.free) > 0:
		at, s.free = s.free[len(s.free)-1], s.free[:len(s.free)-1]
	default:
		at = int32(len(s.records)) //nolint:gosec // bounded by the capacity
		s.records = append(s.records, memoryRecord{})
	}
	s.index[id] = at
	s.records[at] = memoryRecord{id: id}
	return &s.records[at]
}

func (s *shard) remove(r *memoryRecord) {
	at := s.index[r.id]
	delete(s.index, r.id)
	*r = memoryRecord{}
	s.free = append(s.free, at)
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
func (s *shard) drop(now time.Duration, most int) {
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
		} else {
			r.due = 0
			s.file(r, now)
		}
	}
}
