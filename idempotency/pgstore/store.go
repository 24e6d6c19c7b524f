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

// Store is an [idempotency.Store] in PostgreSQL. It is safe for concurrent use. Any number of processes
// may use the same tables, each with a store of its own.
type Store struct {
	settings
	pool      *pgxpool.Pool // the application's, for transactions
	connector driver.Connector
	slots     chan struct{} // each transaction takes one
	own       *pgxpool.Pool // for all other steps, so that they do not wait for handlers
	sql       statements

	waiting  watch.Group
	listener listener
	running  localLocks

	// Whether transactions ask for READ COMMITTED, because a session had another default. Asking is
	// not free: at the end of such a transaction PostgreSQL goes through all its settings.
	asksIsolation atomic.Bool

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

// minKeep is how long a record without an outcome is kept at least, so that its owner may still
// complete it if nobody takes over.
const minKeep = time.Hour

// New returns a store in the database of a pool. It sends nothing to the database; see [Migrate] and
// [Store.Check]. The store deletes expired records from time to time until [Store.Close]. New returns
// the errors of all invalid options, joined.
//
// Transactions of handlers use at most all connections of the pool but one. For all other steps, the
// store opens connections of its own when it needs them, with the pool's configuration: at most as many
// as the pool, and one more for LISTEN. Therefore neither a renewal nor an outcome waits for
// connections that handlers hold.
func New(pool *pgxpool.Pool, opts ...Option) (*Store, error) {
	settings, err := newSettings(opts)
	switch {
	case pool == nil:
		err = errors.Join(err, errors.New("pgstore: the pool is nil"))
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
		s.done.Go(func() { s.expireRegularly(ctx) })
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

// Kind returns "postgres", the name of the store in metrics.
func (s *Store) Kind() string { return "postgres" }

// claimArgs returns the arguments of the statements that claim a record.
func (s *Store) claimArgs(c *idempotency.Claim, more ...any) []any {
	lease := float64(c.Lease.Microseconds())
	expires := lease + micros(c.KeepFor())
	return append([]any{c.ID[:], c.Owner, c.Fingerprint.Schema, c.Fingerprint.Sum[:], lease, expires, lockOf(c.ID), c.Method, c.KeyHash}, more...)
}

// lockOf returns the number of the advisory lock of a record. A transaction that may insert the record
// holds the lock. The statements add the number of the table. Two records whose IDs begin with the
// same eight bytes only wait for each other.
func lockOf(id idempotency.ID) int64 { return int64(binary.BigEndian.Uint64(id[:])) } //nolint:gosec // any bits will do

// micros returns a duration in microseconds, as the statements take it.
func micros(d time.Duration) float64 { return float64(max(0, min(d, maxDuration)).Microseconds()) }

// maxDuration bounds leases and retentions, so that adding them to a time cannot overflow.
const maxDuration = 200 * 365 * 24 * time.Hour

// validate returns an error unless a claim has an owner and a positive lease.
func validate(claim *idempotency.Claim) error {
	if claim.Owner == "" || claim.Lease < time.Microsecond {
		return errors.New("pgstore: a claim must have an owner and a positive lease")
	}
	return nil
}

// leaseLockTimeout is how long a claim under a lease waits for a transaction that holds the lock of the
// record, in milliseconds.
const leaseLockTimeout = "50"

// retrySerialization repeats a step that PostgreSQL has refused because the session's default
// isolation is not READ COMMITTED.
func retrySerialization(step func() error) error {
	err := step()
	for i := 0; i < maxTries && hasCode(err, codeSerialization); i++ {
		err = step()
	}
	return err
}

// maxTries is how often a step is repeated because the record has changed between its statements.
const maxTries = 20

// Begin claims a write, or returns its state.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (idempotency.BeginResult, error) {
	if err := validate(&claim); err != nil {
		return idempotency.BeginResult{}, err
	}
	for range maxTries {
		result, ok, err := s.begin(ctx, &claim)
		if ok || err != nil {
			return result, wrap("begin", err)
		}
	}
	return idempotency.BeginResult{}, errors.New("pgstore: begin: the record changes too often")
}

func (s *Store) begin(ctx context.Context, claim *idempotency.Claim) (idempotency.BeginResult, bool, error) {
	claimed, err := scanInsert(s.own.QueryRow(ctx, s.sql.insert, s.claimArgs(claim)...))
	if err == nil && !claimed.claimed {
		claimed, err = scanClaim(s.own.QueryRow(ctx, s.sql.claim, s.claimArgs(claim, leaseLockTimeout)...))
	}
	switch {
	case hasCode(err, codeSerialization): // the session's default isolation is not READ COMMITTED
		return idempotency.BeginResult{}, false, nil
	case hasCode(err, codeLockTimeout): // a transaction has it
		return idempotency.BeginResult{State: idempotency.Join}, true, nil
	case err != nil:
		return idempotency.BeginResult{}, false, err
	}
	result, ok := claimed.result(claim)
	return result, ok, nil
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	done, err := s.end(ctx, s.sql.complete, lease, lease.ID[:], lease.Owner, int64(lease.Fence), //nolint:gosec // the store has drawn it
		notNil(outcome), micros(retention), s.channel, lease.ID.String(), micros(minKeep))
	if err == nil && (done == nil || !done.done) { // else the owner repeats the step after a lost answer
		return idempotency.ErrLeaseLost
	}
	return wrap("complete", err)
}

// ended is the result of a step that ends a write. If done is set, this owner has ended the write, in
// this step or in an earlier Complete. If others is set, the record was not changed, and has another
// owner or is done.
type ended struct{ done, others bool }

// end takes a step that ends a write, and wakes the callers that wait for it. It returns nil if there
// is no record.
func (s *Store) end(ctx context.Context, sql string, lease idempotency.Lease, args ...any) (*ended, error) {
	var rows int64
	err := retrySerialization(func() error {
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
	mine := r.owner == lease.Owner && r.fence == int64(lease.Fence) //nolint:gosec // the store has drawn it
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

// update changes a pending record for its owner.
func (s *Store) update(ctx context.Context, step, sql string, lease idempotency.Lease, arg any) error {
	var rows int64
	err := retrySerialization(func() error {
		tag, err := s.own.Exec(ctx, sql, lease.ID[:], lease.Owner, int64(lease.Fence), arg) //nolint:gosec // the store has drawn it
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
	claim.Owner = "" // which is no record's owner
	if result, ok := r.result(&claim); ok {
		return result, nil
	}
	return idempotency.BeginResult{State: idempotency.Absent, TakenOver: !r.done && (r.effect || r.owner != "")}, nil
}

// Release ends a run without an outcome.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease, effect bool, retention time.Duration) error {
	was, err := s.end(ctx, s.sql.release, lease, lease.ID[:], lease.Owner, int64(lease.Fence), //nolint:gosec // the store has drawn it
		s.channel, lease.ID.String(), effect, micros(max(retention, minKeep)))
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
