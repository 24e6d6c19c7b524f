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

// lockTimeout is how long Open waits for a file that another process has open.
const lockTimeout = time.Second

// Buckets of the file.
const (
	bucketRecords = "records" // by ID
	bucketDue     = "due"     // by the end of a record and its ID
	bucketMeta    = "meta"
	keyTime       = "time" // in bucketMeta: the time of the last write
)

// Store is an [idempotency.Store] in a file. It is safe for concurrent use.
type Store struct {
	db     *bolt.DB
	base   time.Duration // the store's time when it was opened
	opened time.Time

	waiting watch.Group
	steps   chan *step
	closing chan struct{}
	stopped chan struct{} // closed when the goroutine that writes has ended
	closed  sync.Once
	writing sync.WaitGroup

	purged, failures atomic.Int64 // deleted records, and failed transactions
}

var (
	_ idempotency.Inspector = (*Store)(nil)
	_ idempotency.Measured  = (*Store)(nil)
)

// ErrLocked is returned by [Open] for a file that another process has open.
var ErrLocked = errors.New("boltstore: another process has the file open")

// Open opens a file, and creates it if it does not exist. It returns an error that wraps [ErrLocked] if
// another process has the file open. It starts a goroutine that runs until [Store.Close].
func Open(path string, opts ...Option) (*Store, error) {
	settings, err := newSettings(opts)
	if err != nil {
		return nil, err
	}
	o := *bolt.DefaultOptions
	o.Timeout, o.NoFreelistSync, o.FreelistType, o.NoSync = lockTimeout, true, bolt.FreelistMapType, !settings.sync
	const ownersAlone = 0o600
	db, err := bolt.Open(path, ownersAlone, &o)
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: %s", ErrLocked, path)
	}
	if err != nil {
		return nil, fmt.Errorf("boltstore: %s: %w", path, err)
	}
	s := &Store{db: db, opened: time.Now(), steps: make(chan *step, maxBatch), closing: make(chan struct{}), stopped: make(chan struct{})}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("boltstore: %s: %w", path, err), db.Close())
	}
	s.writing.Go(s.write)
	return s, nil
}

// prepare creates the buckets and sets the store's time.
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

// Close ends the write in progress and closes the file. Later steps fail.
func (s *Store) Close() error {
	s.closed.Do(func() { close(s.closing) })
	s.writing.Wait()
	return s.db.Close()
}

// Kind returns "bolt", the name of the store in metrics.
func (s *Store) Kind() string { return "bolt" }

// Stats returns how many expired records were deleted, and how many writes to the file have failed.
// Each write also deletes expired records.
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
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (result idempotency.BeginResult, err error) {
	if err := ctx.Err(); err != nil {
		return result, wrap("begin", err)
	}
	if claim.Owner == "" || claim.Lease <= 0 {
		return result, errors.New("boltstore: a claim must have an owner and a positive lease")
	}
	r, err := s.view(claim.ID)
	if err != nil {
		return result, wrap("begin", err)
	}
	if result = r.Ask(&claim, s.now()); result.State != idempotency.Absent {
		return result, nil
	}
	var claimed idempotency.BeginResult // not result, because the step may be taken after this call has returned
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
