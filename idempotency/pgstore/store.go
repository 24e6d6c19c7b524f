package pgstore

import (
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/watch"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// Store is an [idempotency.Store] in PostgreSQL. It is safe for concurrent use,
// and to be used by any number of processes at once.
type Store struct {
	settings
	pool      *pgxpool.Pool // of the application, for transactions
	connector driver.Connector
	slots     chan struct{} // each transaction takes one
	own       *pgxpool.Pool // for all else, so that nothing waits for handlers
	sql       statements

	waiting  watch.Group
	listener listener
	flights  flights

	// Whether transactions are to ask for their isolation, since that of some sessions
	// is another by default. PostgreSQL looks at each of its settings at the end of a
	// transaction that has asked for any.
	isolates atomic.Bool

	purged, purgeFailures atomic.Int64

	stop context.CancelFunc
	done sync.WaitGroup
}

var (
	_ idempotency.Store      = (*Store)(nil)
	_ idempotency.Transactor = (*Store)(nil)
	_ idempotency.Inspector  = (*Store)(nil)
	_ idempotency.Measured   = (*Store)(nil)
)

// abandoned is the least for which a record without an outcome is kept, so that its owner may
// still complete it if nobody takes over.
const abandoned = time.Hour

// New returns a store for the database of a pool. It sends the database nothing;
// see [Migrate] and [Store.Check]. It deletes expired records regularly until it
// is closed.
//
// Transactions of handlers use all connections of the pool but one. For all other steps the
// store opens its own when it needs them, with the pool's configuration: at most as many, and
// one for LISTEN. So neither a renewal nor an outcome waits for handlers.
func New(pool *pgxpool.Pool, opts ...Option) (*Store, error) {
	settings, err := newSettings(opts)
	switch {
	case pool == nil:
		err = errors.Join(err, errors.New("pgstore: no pool"))
	case settings.transactions && pool.Config().MaxConns < 2:
		err = errors.Join(err, errors.New("pgstore: WithTransactions: the pool must allow at least two connections, so that handlers in transactions can use it for other queries"))
	}
	if err != nil {
		return nil, err
	}
	config := pool.Config()
	config.MinConns, config.MinIdleConns = 0, 0
	ctx, stop := context.WithCancel(context.Background())
	own, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		stop()
		return nil, fmt.Errorf("pgstore: %w", err)
	}
	s := &Store{
		settings: settings, pool: pool, own: own, sql: newStatements(settings.prefix), stop: stop,
		connector: stdlib.GetPoolConnector(pool),
		slots:     make(chan struct{}, max(1, config.MaxConns-1)),
	}
	s.listener.store = s
	if s.expireEvery > 0 {
		s.done.Go(func() { s.keepExpiring(ctx) })
	}
	return s, nil
}

// Close stops the store's background work, and closes its own connections. It leaves the
// pool open.
func (s *Store) Close() {
	s.stop()
	s.listener.close()
	s.done.Wait()
	s.own.Close()
}

// Kind returns "postgres", as metrics name the store.
func (s *Store) Kind() string { return "postgres" }

// claimArgs are the arguments of the statements that claim a record.
func (s *Store) claimArgs(c *idempotency.Claim, more ...any) []any {
	lease := float64(c.Lease.Microseconds())
	expires := lease + micros(c.KeepFor())
	return append([]any{c.ID[:], c.Owner, c.Fingerprint.Schema, c.Fingerprint.Sum[:], lease, expires, lockOf(c.ID), c.Method, c.KeyHash}, more...)
}

// lockOf returns the advisory lock of a record, which is locked for as long as a
// transaction may make it. The statements add which table it is in. Two records
// whose IDs begin with the same eight bytes of a hash wait for each other, and come
// to no harm.
func lockOf(id idempotency.ID) int64 { return int64(binary.BigEndian.Uint64(id[:])) } //nolint:gosec // any bits will do

// micros returns a duration as the statements take it.
func micros(d time.Duration) float64 { return float64(max(0, min(d, longest)).Microseconds()) }

// longest is what longer times are taken for. PostgreSQL's own end in some hundred
// thousand years.
const longest = 200 * 365 * 24 * time.Hour

// briefly is for how long, in milliseconds, a claim under a lease waits for a
// transaction that has the record.
const briefly = "50"

// steadily takes a step again that PostgreSQL has refused under an isolation that
// is not the one to use.
func steadily(step func() error) error {
	err := step()
	for i := 0; i < tries && hasCode(err, codeSerialization); i++ {
		err = step()
	}
	return err
}

// tries is how often a step is taken again because the record changed between
// its two statements.
const tries = 20

// Begin claims a write, or returns its state.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (idempotency.BeginResult, error) {
	if claim.Owner == "" || claim.Lease < time.Microsecond {
		return idempotency.BeginResult{}, errors.New("pgstore: a claim must have an owner and a positive lease")
	}
	for range tries {
		begun, ok, err := s.begin(ctx, &claim)
		if ok || err != nil {
			return begun, wrap("begin", err)
		}
	}
	return idempotency.BeginResult{}, errors.New("pgstore: begin: the record changes too often")
}

func (s *Store) begin(ctx context.Context, claim *idempotency.Claim) (idempotency.BeginResult, bool, error) {
	t, err := scanInsert(s.own.QueryRow(ctx, s.sql.insert, s.claimArgs(claim)...))
	if err == nil && !t.claimed {
		t, err = scanClaim(s.own.QueryRow(ctx, s.sql.claim, s.claimArgs(claim, briefly)...))
	}
	switch {
	case hasCode(err, codeSerialization): // under an isolation that is not the one to use
		return idempotency.BeginResult{}, false, nil
	case hasCode(err, codeLockTimeout): // a transaction has it
		return idempotency.BeginResult{State: idempotency.Join}, true, nil
	case err != nil:
		return idempotency.BeginResult{}, false, err
	}
	begun, ok := t.begun(claim)
	return begun, ok, nil
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	done, err := s.end(ctx, s.sql.complete, lease, lease.ID[:], lease.Owner, int64(lease.Fence), notNil(outcome), micros(retention), s.channel, lease.ID.String(), micros(abandoned)) //nolint:gosec // it came from here
	if err == nil && done == nil || err == nil && !done.done {                                                                                                                        // else it was asked for before, and the answer lost
		return idempotency.ErrLeaseLost
	}
	return wrap("complete", err)
}

// ended is a record as it is after a step of its owner that ends it: as the step
// made it, or as it was if the step found nothing of its owner's to end.
type ended struct{ done, others bool }

// end takes a step that ends a write, and wakes those who wait for it. It returns
// nil if there is no record.
func (s *Store) end(ctx context.Context, sql string, lease idempotency.Lease, args ...any) (*ended, error) {
	var rows int64
	err := steadily(func() error {
		tag, err := s.own.Exec(ctx, sql, args...)
		rows = tag.RowsAffected()
		return err
	})
	if err != nil {
		return nil, err
	}
	if rows > 0 {
		s.waiting.Wake(lease.ID)
		return &ended{done: true}, nil
	}
	r, err := scanRow(s.own.QueryRow(ctx, s.sql.read, lease.ID[:]))
	if r == nil || err != nil {
		return nil, err
	}
	mine := r.owner == lease.Owner && r.fence == int64(lease.Fence) //nolint:gosec // it came from here
	return &ended{done: r.done && mine, others: !mine && r.owner != "" || r.done}, nil
}

// Extend makes the lease last for d from now.
func (s *Store) Extend(ctx context.Context, lease idempotency.Lease, d time.Duration) error {
	return s.update(ctx, "extend", s.sql.extend, lease, micros(d))
}

// Save stores a checkpoint.
func (s *Store) Save(ctx context.Context, lease idempotency.Lease, checkpoint []byte) error {
	return s.update(ctx, "save", s.sql.save, lease, notNil(checkpoint))
}

// update changes a pending record of its owner's.
func (s *Store) update(ctx context.Context, step, sql string, lease idempotency.Lease, arg any) error {
	var rows int64
	err := steadily(func() error {
		tag, err := s.own.Exec(ctx, sql, lease.ID[:], lease.Owner, int64(lease.Fence), arg) //nolint:gosec // it came from here
		rows = tag.RowsAffected()
		return err
	})
	switch {
	case err != nil:
		return wrap(step, err)
	case rows == 0:
		return idempotency.ErrLeaseLost
	default:
		return nil
	}
}

// Look returns the state of a write, and claims nothing.
func (s *Store) Look(ctx context.Context, claim idempotency.Claim) (idempotency.BeginResult, error) {
	r, err := scanRow(s.own.QueryRow(ctx, s.sql.read, claim.ID[:]))
	switch {
	case err != nil:
		return idempotency.BeginResult{}, wrap("look", err)
	case r == nil:
		return idempotency.BeginResult{State: idempotency.Absent}, nil
	}
	claim.Owner = "" // nobody's
	if begun, there := r.begun(&claim); there {
		return begun, nil
	}
	return idempotency.BeginResult{State: idempotency.Absent, TakenOver: !r.done && (r.effect || r.owner != "")}, nil
}

// Release ends a run without an outcome.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease, effect bool, retention time.Duration) error {
	was, err := s.end(ctx, s.sql.release, lease, lease.ID[:], lease.Owner, int64(lease.Fence), //nolint:gosec // it came from here
		s.channel, lease.ID.String(), effect, micros(max(retention, abandoned)))
	if err == nil && was != nil && was.others {
		return idempotency.ErrLeaseLost
	}
	return wrap("release", err)
}

func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func ignoreNone(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

func wrap(step string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("pgstore: %s: %w", step, err)
}

// Codes of PostgreSQL's errors.
const (
	codeLockTimeout    = "55P03"
	codeCanceled       = "57014"
	codeUndefinedTable = "42P01"
	codeNoSchema       = "3F000"
	codeSerialization  = "40001"
	codeDeadlock       = "40P01"
	codeUnique         = "23505"
)

func hasCode(err error, codes ...string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains(codes, pg.Code)
}

func isMissing(err error) bool { return hasCode(err, codeUndefinedTable, codeNoSchema) }
