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
	"github.com/hopbound/hopbound/internal/watch"
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
	db    *bolt.DB
	base  int64 // of the store's time, in nanoseconds
	begun time.Time

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
	s := &Store{db: db, begun: time.Now(), steps: make(chan *step, mostAtOnce), closing: make(chan struct{}), gone: make(chan struct{})}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("boltstore: %s: %w", path, err), db.Close())
	}
	s.written.Go(s.write)
	return s, nil
}

// prepare makes the buckets and sets the time.
func (s *Store) prepare() error {
	s.base = s.begun.UnixNano()
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [...]string{bucketRecords, bucketDue, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		if raw := tx.Bucket([]byte(bucketMeta)).Get([]byte(keyTime)); len(raw) == 8 {
			s.base = max(s.base, int64(binary.BigEndian.Uint64(raw))) //nolint:gosec // it is read as it is written
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

// now returns the store's time.
func (s *Store) now() int64 { return s.base + int64(time.Since(s.begun)) }

// view reads a record, or nil if there is none. It must not outlive the
// transaction that it is read in.
func view(tx *bolt.Tx, id idempotency.ID) (*record, error) {
	raw := tx.Bucket([]byte(bucketRecords)).Get(id[:])
	if raw == nil {
		return nil, nil //nolint:nilnil // none
	}
	return parse(raw)
}

// Begin claims a write, or returns its state. It writes only if it claims.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (begun idempotency.BeginResult, err error) {
	if err := ctx.Err(); err != nil {
		return begun, fmt.Errorf("boltstore: begin: %w", err)
	}
	if claim.Owner == "" || claim.Lease <= 0 {
		return begun, errors.New("boltstore: a claim must have an owner and a positive lease")
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		r, err := view(tx, claim.ID)
		begun = r.begun(&claim, s.now())
		return err
	})
	if err != nil {
		return idempotency.BeginResult{}, wrap("begin", err)
	}
	if begun.State != idempotency.Absent {
		return begun, nil
	}
	var got idempotency.BeginResult
	err = s.take(ctx, func(w *writer) (err error) {
		got, err = w.claim(&claim)
		return err
	})
	if err != nil {
		return idempotency.BeginResult{}, wrap("begin", err)
	}
	return got, nil
}

// Look returns the state of a write, and claims nothing.
func (s *Store) Look(ctx context.Context, claim idempotency.Claim) (known idempotency.BeginResult, err error) {
	if err := ctx.Err(); err != nil {
		return known, fmt.Errorf("boltstore: look: %w", err)
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		r, err := view(tx, claim.ID)
		if err == nil {
			known = r.known(&claim.Fingerprint, s.now())
		}
		return err
	})
	return known, wrap("look", err)
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	return wrap("complete", s.take(ctx, func(w *writer) error { return w.complete(lease, outcome, retention) }))
}

// Extend makes the lease last for d from now.
func (s *Store) Extend(ctx context.Context, lease idempotency.Lease, d time.Duration) error {
	return wrap("extend", s.take(ctx, func(w *writer) error { return w.extend(lease, d) }))
}

// Save stores a checkpoint.
func (s *Store) Save(ctx context.Context, lease idempotency.Lease, checkpoint []byte) error {
	return wrap("save", s.take(ctx, func(w *writer) error { return w.save(lease, checkpoint) }))
}

// Release ends a run without an outcome.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease, effect bool, retention time.Duration) error {
	return wrap("release", s.take(ctx, func(w *writer) error { return w.release(lease, effect, retention) }))
}

// Wait returns when the record may no longer be pending.
func (s *Store) Wait(ctx context.Context, id idempotency.ID) error {
	never := watch.Pace{Least: math.MaxInt64 / 2, Most: math.MaxInt64 / 2} // it is always woken
	return wrap("wait", s.waiting.Wait(ctx, id, never, func(context.Context) (left time.Duration, err error) {
		err = s.db.View(func(tx *bolt.Tx) error {
			r, err := view(tx, id)
			if r != nil {
				left = r.left(s.now())
			}
			return err
		})
		return left, err
	}))
}

func wrap(step string, err error) error {
	if err == nil || errors.Is(err, idempotency.ErrLeaseLost) {
		return err
	}
	return fmt.Errorf("boltstore: %s: %w", step, err)
}
