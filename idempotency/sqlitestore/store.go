package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/watch"
)

// Store is an [idempotency.Store] in a SQLite file. It is safe for concurrent use. Any number of
// processes of one machine may use the file at once, each with a store of its own.
type Store struct {
	settings
	file    file
	waiting watch.Group
	wall    func() time.Duration // the machine's clock, since the beginning of 1970

	purged, purgeFailures atomic.Int64

	stop context.CancelFunc
	done sync.WaitGroup
}

var (
	_ idempotency.Transactor = (*Store)(nil)
	_ idempotency.Inspector  = (*Store)(nil)
	_ idempotency.Measured   = (*Store)(nil)
)

// New returns a store in the file of a pool. It does not read the file; see [Migrate] and
// [Store.Check]. The store deletes expired records from time to time until [Store.Close]. New
// returns the errors of all invalid options, joined.
//
// The store uses at most one connection of the pool to write, and one for each call that reads.
// With [WithTransactions] the pool must allow at least two connections.
func New(db *sql.DB, opts ...Option) (*Store, error) {
	settings, err := newSettings(opts)
	switch {
	case db == nil:
		err = errors.Join(err, errors.New("sqlitestore: the database is nil"))
	case settings.transactions && db.Stats().MaxOpenConnections == 1:
		err = errors.Join(err, errors.New("sqlitestore: WithTransactions: the pool must allow at least two connections, because a handler's transaction holds one"))
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{settings: settings, file: newFile(db), wall: func() time.Duration { return time.Duration(time.Now().UnixNano()) }, stop: stop}
	if s.expireEvery > 0 {
		s.done.Go(func() { s.expireRegularly(ctx) })
	}
	return s, nil
}

// Close stops the store's background work. It leaves the pool open.
func (s *Store) Close() {
	s.stop()
	s.done.Wait()
}

// Kind returns "sqlite", the name of the store in metrics.
func (s *Store) Kind() string { return "sqlite" }

// view reads the record of an ID, which is the zero value if there is none, and the time. It does
// not wait for transactions.
func (s *Store) view(ctx context.Context, id idempotency.ID) (r *record, now time.Duration, err error) {
	now = s.wall()
	err = whileBusy(ctx, func() (err error) {
		var fileTime time.Duration
		r, fileTime, err = readRecord(ctx, s.file.db, id)
		now = max(now, fileTime)
		return err
	})
	return r, now, err
}

// ask returns the state of a write for a claim, without claiming it.
func (s *Store) ask(ctx context.Context, claim *idempotency.Claim) (idempotency.BeginResult, error) {
	if claim.Owner == "" || claim.Lease <= 0 {
		return idempotency.BeginResult{}, errors.New("a claim must have an owner and a positive lease")
	}
	r, now, err := s.view(ctx, claim.ID)
	if err != nil {
		return idempotency.BeginResult{}, err
	}
	return r.Ask(claim, now), nil
}

// Begin claims a write, or returns its state. It writes only if it claims.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (idempotency.BeginResult, error) {
	result, err := s.ask(ctx, &claim)
	if err != nil || result.State != idempotency.Absent {
		return result, wrap("begin", err)
	}
	err = s.step(ctx, "begin", claim.ID, func(w *writer) (err error) {
		result, err = w.claim(&claim)
		return err
	})
	if err != nil {
		return idempotency.BeginResult{}, err
	}
	return result, nil
}

// Look returns the state of a write, and claims nothing.
func (s *Store) Look(ctx context.Context, claim idempotency.Claim) (idempotency.BeginResult, error) {
	r, now, err := s.view(ctx, claim.ID)
	if err != nil {
		return idempotency.BeginResult{}, wrap("look", err)
	}
	return r.Look(claim.Fingerprint, now), nil
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	return s.change(ctx, "complete", lease.ID, func(r *record, now time.Duration) error { return r.Complete(lease, outcome, retention, now) })
}

// Extend makes the lease last for d from now.
func (s *Store) Extend(ctx context.Context, lease idempotency.Lease, d time.Duration) error {
	return s.change(ctx, "extend", lease.ID, func(r *record, now time.Duration) error { return r.Extend(lease, d, now) })
}

// Save stores a checkpoint.
func (s *Store) Save(ctx context.Context, lease idempotency.Lease, checkpoint []byte) error {
	return s.change(ctx, "save", lease.ID, func(r *record, _ time.Duration) error { return r.Save(lease, checkpoint) })
}

// Release ends a run without an outcome.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease, effect bool, retention time.Duration) error {
	return s.change(ctx, "release", lease.ID, func(r *record, now time.Duration) error { return r.Release(lease, effect, retention, now) })
}

// Wait returns when the record may no longer be pending. It notices a change by this store at
// once. It notices a change by another store when it next reads the record, at intervals that
// grow with the wait.
func (s *Store) Wait(ctx context.Context, id idempotency.ID) error {
	pace := watch.Pace{Min: 5 * time.Millisecond, Max: 250 * time.Millisecond}
	return wrap("wait", s.waiting.Wait(ctx, id, pace, func(ctx context.Context) (time.Duration, error) {
		r, now, err := s.view(ctx, id)
		if err != nil {
			return 0, err
		}
		return r.Left(now), nil
	}))
}

func wrap(step string, err error) error {
	if err == nil || errors.Is(err, idempotency.ErrLeaseLost) {
		return err
	}
	return fmt.Errorf("sqlitestore: %s: %w", step, err)
}
