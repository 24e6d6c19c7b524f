package boltstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/watch"
	bolt "go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// lockTimeout is how long to wait for a file that another process has open.
const lockTimeout = time.Second

// Buckets of the file.
const (
	bucketRecords = "records" // by ID
	bucketDue     = "due"     // when a record may be dropped, and its ID
	bucketMeta    = "meta"
	keyTime       = "time" // of the last write
)

// Store is an [idempotency.Store] in a file. It is safe for concurrent use.
type Store struct {
	db     *bolt.DB
	base   time.Duration // the store's time when it was opened
	opened time.Time

	waiting watch.Group
	steps   chan *step
	closing chan struct{}
	gone    chan struct{} // closed when nothing is written any more
	closed  sync.Once
	written sync.WaitGroup

	purged, failures atomic.Int64 // records that were deleted, and transactions that failed
}

var (
	_ idempotency.Inspector = (*Store)(nil)
	_ idempotency.Measured  = (*Store)(nil)
)

// Option configures a [Store].
type Option func(*bolt.Options) error

// WithoutSync does not wait for the disk: a crash of the machine may lose the last
// writes or damage the file. A crash of the process does neither.
func WithoutSync() Option {
	return func(o *bolt.Options) error {
		o.NoSync = true
		return nil
	}
}

// ErrLocked is returned by [Open] for a file that another process has open.
var ErrLocked = errors.New("boltstore: another process has the file open")

// Open opens a file, and creates it if there is none. It starts a goroutine that
// writes until the store is closed.
func Open(path string, opts ...Option) (*Store, error) {
	o := *bolt.DefaultOptions
	o.Timeout, o.NoFreelistSync, o.FreelistType = lockTimeout, true, bolt.FreelistMapType
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("option %d is nil", i+1))
			continue
		}
		errs = append(errs, opt(&o))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	const ownersAlone = 0o600
	db, err := bolt.Open(path, ownersAlone, &o)
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	}
	if err != nil {
		return nil, fmt.Errorf("boltstore: %s: %w", path, err)
	}
	s := &Store{db: db, opened: time.Now(), steps: make(chan *step, mostAtOnce), closing: make(chan struct{}), gone: make(chan struct{})}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("boltstore: %s: %w", path, err), db.Close())
	}
	s.written.Go(s.write)
	return s, nil
}

// prepare makes the buckets and sets the time.
func (s *Store) prepare() error {
	s.base = time.Duration(s.opened.UnixNano())
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [...]string{bucketRecords, bucketDue, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		if raw := tx.Bucket([]byte(bucketMeta)).Get([]byte(keyTime)); len(raw) == 8 {
			s.base = max(s.base, time.Duration(binary.BigEndian.Uint64(raw))) //nolint:gosec // commit wrote it
		}
		return nil
	})
}

// Close closes the file when the write in progress has ended. Later steps fail.
func (s *Store) Close() error {
	s.closed.Do(func() { close(s.closing) })
	s.written.Wait()
	return s.db.Close()
}

// Kind returns "bolt", as metrics name the store.
func (s *Store) Kind() string { return "bolt" }

// Stats returns how many expired records were deleted, and how many writes to the file, each of
// which also deletes expired records, have failed.
func (s *Store) Stats() idempotency.Stats {
	return idempotency.Stats{Purged: s.purged.Load(), PurgeFailures: s.failures.Load()}
}

// now returns the store's time, since the beginning of 1970.
func (s *Store) now() time.Duration { return s.base + time.Since(s.opened) }

// view reads the record of an ID, which is the zero value if there is none.
func (s *Store) view(id idempotency.ID) (r *idempotency.StoredRecord, err error) {
	err = s.db.View(func(tx *bolt.Tx) (err error) {
		r, err = read(tx.Bucket([]byte(bucketRecords)), id)
		return err
	})
	return r, err
}

// Begin claims a write, or returns its state. It writes only if it claims.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (begun idempotency.BeginResult, err error) {
	if err := ctx.Err(); err != nil {
		return begun, wrap("begin", err)
	}
	if claim.Owner == "" || claim.Lease <= 0 {
		return begun, errors.New("boltstore: a claim must have an owner and a positive lease")
	}
	r, err := s.view(claim.ID)
	if err != nil {
		return begun, wrap("begin", err)
	}
	if begun = r.Ask(&claim, s.now()); begun.State != idempotency.Absent {
		return begun, nil
	}
	var claimed idempotency.BeginResult // written by the goroutine that writes, which may outlive this call
	err = s.take(ctx, func(w *writer) (err error) {
		claimed, err = w.claim(&claim)
		return err
	})
	if err != nil {
		return idempotency.BeginResult{}, wrap("begin", err)
	}
	return claimed, nil
}

// Look returns the state of a write, and claims nothing.
func (s *Store) Look(ctx context.Context, claim idempotency.Claim) (idempotency.BeginResult, error) {
	if err := ctx.Err(); err != nil {
		return idempotency.BeginResult{}, wrap("look", err)
	}
	r, err := s.view(claim.ID)
	if err != nil {
		return idempotency.BeginResult{}, wrap("look", err)
	}
	return r.Look(claim.Fingerprint, s.now()), nil
}

// change takes a step with the record of an ID, and waits until it is on the disk.
func (s *Store) change(ctx context.Context, name string, id idempotency.ID, step func(r *idempotency.StoredRecord, now time.Duration) error) error {
	return wrap(name, s.take(ctx, func(w *writer) error {
		return w.change(id, func(r *idempotency.StoredRecord) error { return step(r, w.now) })
	}))
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	return s.change(ctx, "complete", lease.ID, func(r *idempotency.StoredRecord, now time.Duration) error {
		return r.Complete(lease, outcome, retention, now)
	})
}

// Extend makes the lease last for d from now.
func (s *Store) Extend(ctx context.Context, lease idempotency.Lease, d time.Duration) error {
	return s.change(ctx, "extend", lease.ID, func(r *idempotency.StoredRecord, now time.Duration) error {
		return r.Extend(lease, d, now)
	})
}

// Save stores a checkpoint.
func (s *Store) Save(ctx context.Context, lease idempotency.Lease, checkpoint []byte) error {
	return s.change(ctx, "save", lease.ID, func(r *idempotency.StoredRecord, _ time.Duration) error {
		return r.Save(lease, checkpoint)
	})
}

// Release ends a run without an outcome.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease, effect bool, retention time.Duration) error {
	return s.change(ctx, "release", lease.ID, func(r *idempotency.StoredRecord, now time.Duration) error {
		return r.Release(lease, effect, retention, now)
	})
}

// Wait returns when the record may no longer be pending.
func (s *Store) Wait(ctx context.Context, id idempotency.ID) error {
	never := watch.Pace{Min: math.MaxInt64 / 2, Max: math.MaxInt64 / 2} // every change wakes it
	return wrap("wait", s.waiting.Wait(ctx, id, never, func(context.Context) (time.Duration, error) {
		r, err := s.view(id)
		if err != nil {
			return 0, err
		}
		return r.Left(s.now()), nil
	}))
}

func wrap(step string, err error) error {
	if err == nil || errors.Is(err, idempotency.ErrLeaseLost) {
		return err
	}
	return fmt.Errorf("boltstore: %s: %w", step, err)
}
