package idempotency

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"
)

// Memory is a [Store] in the memory of one process. It is safe for concurrent use. It is bounded in
// records and bytes: when it is full, it refuses new IDs with a [FullError]. It never drops a record
// that is pending or whose retention has not ended. A tenant's records ([Claim.Tenant]) take at most
// half of the room that all other records leave. The records are lost when the process ends.
//
// A write is not taken over while [Claim.Running] reports that its handler runs: a process that was
// paused for longer than a lease continues its own runs.
type Memory struct {
	shards  [shardCount]shard
	room    memoryRoom
	started time.Time
	logger  *slog.Logger
	warned  atomic.Int64 // the hour of the last warning, counted from 1
	purged  atomic.Int64

	soonest, lookedUp atomic.Int64 // the first second in which a record is due, and the second in which that was looked up

	err error // of the options
}

// MemoryOption configures a [Memory].
type MemoryOption func(*memorySettings) error

type memorySettings struct {
	records int
	bytes   int64
	logger  *slog.Logger // nil is slog.Default
}

// MemoryCapacity bounds the number of records. The default is 1,048,576. With the default of
// [MemoryBytes], the store is full at about half as many. The number must be positive.
func MemoryCapacity(records int) MemoryOption {
	return func(s *memorySettings) error {
		s.records = records
		if records <= 0 {
			return fmt.Errorf("MemoryCapacity(%d): must be positive", records)
		}
		return nil
	}
}

// MemoryBytes bounds the memory that records take, in bytes. A record takes about 400 bytes and the
// size of its outcome. A write that was claimed before the store was full still stores its outcome,
// so the store may exceed the bound by the outcomes of the handlers that run. The default is 256
// MiB, and the minimum 64 KiB.
func MemoryBytes(bytes int64) MemoryOption {
	return func(s *memorySettings) error {
		s.bytes = bytes
		if bytes < 1<<16 {
			return fmt.Errorf("MemoryBytes(%d): must be at least 65536", bytes)
		}
		return nil
	}
}

// MemoryLogger sets the logger that warns, at most once an hour, when the store or a tenant's share
// of it is more than 80 % full. The default, also for nil, is [slog.Default].
func MemoryLogger(logger *slog.Logger) MemoryOption {
	return func(s *memorySettings) error {
		s.logger = logger
		return nil
	}
}

// NewMemory returns an empty store. It starts no goroutine. If an option is invalid,
// [Memory.Err] and the server that gets the store return the error.
func NewMemory(opts ...MemoryOption) *Memory {
	s := memorySettings{records: 1 << 20, bytes: 256 << 20}
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("option %d is nil", i+1))
			continue
		}
		errs = append(errs, opt(&s))
	}
	m := &Memory{started: time.Now(), logger: s.logger, err: errors.Join(errs...)}
	m.room.limit, m.room.tenants = use{records: int64(s.records), bytes: s.bytes}, map[string]*use{}
	for i := range m.shards {
		m.shards[i] = newShard(&m.room)
	}
	return m
}

var _ Measured = (*Memory)(nil)

// Err returns the errors of the options of [NewMemory], joined, or nil.
func (m *Memory) Err() error { return m.err }

// Kind returns "memory", the name of the store in metrics.
func (m *Memory) Kind() string { return "memory" }

// Volatile returns true, because the records are lost when the process ends. A server with such a
// store does not tell its callers that it stores outcomes, because a retry may reach another
// process.
func (m *Memory) Volatile() bool { return true }

// Stats returns the size of the store and its bounds. Expired records count until they are deleted.
func (m *Memory) Stats() Stats {
	m.room.mu.Lock()
	defer m.room.mu.Unlock()
	return Stats{
		Records: m.room.used.records, MaxRecords: m.room.limit.records,
		Bytes: m.room.used.bytes, MaxBytes: m.room.limit.bytes, Purged: m.purged.Load(),
	}
}

// open locks the shard of an ID, and returns it with the store's time.
func (m *Memory) open(ctx context.Context, step string, id *ID) (*shard, time.Duration, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", step, err)
	}
	s := &m.shards[binary.BigEndian.Uint64(id[:])%shardCount] // IDs are hashes
	s.mu.Lock()
	return s, time.Since(m.started), nil
}

// Begin claims a write, or returns its state. If there is no room for a new record, it returns a
// [FullError].
func (m *Memory) Begin(ctx context.Context, claim Claim) (BeginResult, error) {
	if claim.Owner == "" || claim.Lease <= 0 {
		return BeginResult{}, errors.New("idempotency: a claim must have an owner and a positive lease")
	}
	b, fill, err := m.begin(ctx, &claim)
	if errors.Is(err, ErrFull) { // unless expired records take the room
		m.sweep()
		b, fill, err = m.begin(ctx, &claim)
	}
	if errors.Is(err, ErrFull) {
		err = m.full()
	}
	if fill > warnAt {
		m.warn(claim.Tenant)
	}
	return b, err
}

// begin does what Begin does. If it has added a record or has no room for one, it also returns how
// full the store is.
func (m *Memory) begin(ctx context.Context, claim *Claim) (b BeginResult, fill float64, err error) {
	s, now, err := m.open(ctx, "begin", &claim.ID)
	if err != nil {
		return BeginResult{}, 0, err
	}
	defer s.mu.Unlock()
	m.purged.Add(s.drop(now, 3)) // more records than a write adds
	r := s.find(claim.ID, now)
	if r != nil {
		if asked := r.Ask(claim, now); asked.State != Absent {
			return asked, 0, nil
		}
	} else if r, fill = s.add(claim.ID, claim.Tenant); r == nil {
		return BeginResult{}, fill, ErrFull
	}
	s.fence++
	b = r.Claim(claim, s.fence, now)
	r.Method, r.KeyHash = "", "" // no operator looks at the records of a process
	r.running = claim.Running
	s.changed(r, now)
	return b, fill, nil
}

// Look returns the state of a write, and claims nothing.
func (m *Memory) Look(ctx context.Context, claim Claim) (BeginResult, error) {
	s, now, err := m.open(ctx, "look", &claim.ID)
	if err != nil {
		return BeginResult{}, err
	}
	defer s.mu.Unlock()
	r := s.find(claim.ID, now)
	if r == nil {
		return BeginResult{State: Absent}, nil
	}
	return r.Look(claim.Fingerprint, now), nil
}

// step takes a step of the owner of a record.
func (m *Memory) step(ctx context.Context, name string, id *ID, take func(r *StoredRecord, now time.Duration) error) error {
	s, now, err := m.open(ctx, name, id)
	if err != nil {
		return err
	}
	defer s.mu.Unlock()
	r := s.find(*id, now)
	if r == nil {
		var absent StoredRecord
		return take(&absent, now)
	}
	if err := take(&r.StoredRecord, now); err != nil {
		return err
	}
	if r.State() == "" {
		s.remove(r)
	} else {
		s.changed(r, now)
	}
	return nil
}

// Complete ends a write with its outcome.
func (m *Memory) Complete(ctx context.Context, lease Lease, outcome []byte, retention time.Duration) error {
	return m.step(ctx, "complete", &lease.ID, func(r *StoredRecord, now time.Duration) error { return r.Complete(lease, outcome, retention, now) })
}

// Extend makes the lease last for d from now.
func (m *Memory) Extend(ctx context.Context, lease Lease, d time.Duration) error {
	return m.step(ctx, "extend", &lease.ID, func(r *StoredRecord, now time.Duration) error { return r.Extend(lease, d, now) })
}

// Save stores a checkpoint.
func (m *Memory) Save(ctx context.Context, lease Lease, checkpoint []byte) error {
	return m.step(ctx, "save", &lease.ID, func(r *StoredRecord, _ time.Duration) error { return r.Save(lease, checkpoint) })
}

// Release ends a run without an outcome.
func (m *Memory) Release(ctx context.Context, lease Lease, effect bool, retention time.Duration) error {
	return m.step(ctx, "release", &lease.ID, func(r *StoredRecord, now time.Duration) error { return r.Release(lease, effect, retention, now) })
}

// Wait returns when the record may no longer be pending.
func (m *Memory) Wait(ctx context.Context, id ID) error {
	s, now, err := m.open(ctx, "wait", &id)
	if err != nil {
		return err
	}
	r := s.find(id, now)
	if r == nil || r.Left(now) <= 0 {
		s.mu.Unlock()
		return nil
	}
	if r.waited == nil {
		r.waited = make(chan struct{})
	}
	waited := r.waited
	// The owner of a run that goes on ends it by a step, and may do so after its lease.
	timer := time.NewTimer(max(r.Left(now), time.Second))
	s.mu.Unlock()
	defer timer.Stop()
	select {
	case <-waited:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
