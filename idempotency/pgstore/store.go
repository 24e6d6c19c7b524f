package pgstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/watch"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Store is an [idempotency.Store] in PostgreSQL. It is safe for concurrent use,
// and to be used by any number of processes at once.
type Store struct {
	settings
	pool *pgxpool.Pool
	sql  statements

	waiting  watch.Group
	listener listener
	flights  flights

	stop context.CancelFunc
	done sync.WaitGroup
}

var (
	_ idempotency.Store      = (*Store)(nil)
	_ idempotency.Transactor = (*Store)(nil)
)

// abandoned is how long a pending record is kept after its lease has run out, so
// that its owner may still complete it if nobody takes over.
const abandoned = time.Hour

// New returns a store that uses a pool. It does not ask the database for
// anything; see [Migrate] and [Store.Check]. It deletes expired records now and
// then until it is closed.
func New(pool *pgxpool.Pool, opts ...Option) (*Store, error) {
	settings, err := newSettings(opts)
	if pool == nil {
		err = errors.Join(err, errors.New("pgstore: no pool"))
	}
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{settings: settings, pool: pool, sql: newStatements(settings.prefix, settings.channel), stop: stop}
	s.listener.store = s
	if s.expireEvery > 0 {
		s.done.Go(func() { s.keepExpiring(ctx) })
	}
	return s, nil
}

// Close ends what the store does by itself. It leaves the pool open.
func (s *Store) Close() {
	s.stop()
	s.listener.close()
	s.done.Wait()
}

// Kind returns "postgres", as metrics name the store.
func (s *Store) Kind() string { return "postgres" }

// statements are those of the store, with the names of its tables in them.
type statements struct {
	claim, read, complete, completed, extend, release, look, left, finish, expire string
}

func newStatements(prefix, channel string) statements {
	with := func(sql string) string {
		return strings.NewReplacer("{table}", prefix+"hopbound_idempotency",
			"{fence}", prefix+"hopbound_idempotency_fence", "{channel}", channel).Replace(sql)
	}
	return statements{
		// A record is claimed if there is none, or its retention or its lease has
		// ended; in that last case only for the same request.
		claim: with(`INSERT INTO {table} AS r (id, owner, fence, fp_schema, fp_sum, until, expires)
VALUES ($1, $2, nextval('{fence}'), $3, $4, clock_timestamp() + $5 * interval '1 microsecond', clock_timestamp() + ($5 + $6) * interval '1 microsecond')
ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, fence = excluded.fence,
 fp_schema = excluded.fp_schema, fp_sum = excluded.fp_sum, taken_over = NOT r.done, done = false, waited = false, outcome = NULL,
 until = clock_timestamp() + $5 * interval '1 microsecond', expires = clock_timestamp() + ($5 + $6) * interval '1 microsecond'
WHERE r.until <= clock_timestamp()
 AND (r.done OR r.owner <> $2 AND (r.fp_schema = '' OR r.fp_schema <> $3 OR r.fp_sum = $4))
RETURNING fence, taken_over`),
		read: with(`SELECT owner, fence, fp_schema, fp_sum, done, until > clock_timestamp(), outcome FROM {table} WHERE id = $1`),
		complete: with(`WITH done AS (UPDATE {table} SET done = true, outcome = $4, until = clock_timestamp() + $5 * interval '1 microsecond',
 expires = clock_timestamp() + $5 * interval '1 microsecond' WHERE id = $1 AND owner = $2 AND fence = $3 AND NOT done RETURNING waited)
SELECT count(CASE WHEN waited THEN pg_notify('{channel}', $6)::text ELSE '' END) FROM done`),
		completed: with(`SELECT done FROM {table} WHERE id = $1 AND owner = $2 AND fence = $3`),
		extend: with(`UPDATE {table} SET until = greatest(until, clock_timestamp() + $4 * interval '1 microsecond'),
 expires = greatest(expires, clock_timestamp() + ($4 + $5) * interval '1 microsecond') WHERE id = $1 AND owner = $2 AND fence = $3 AND NOT done`),
		release: with(`WITH gone AS (DELETE FROM {table} WHERE id = $1 AND owner = $2 AND fence = $3 AND NOT done RETURNING waited)
SELECT count(CASE WHEN waited THEN pg_notify('{channel}', $4)::text ELSE '' END) FROM gone`),
		look: with(`UPDATE {table} SET waited = true WHERE id = $1 AND NOT done AND NOT waited`),
		left: with(`SELECT extract(epoch FROM until - clock_timestamp())::float8 FROM {table} WHERE id = $1 AND NOT done`),
		// Without its record, which the handler has then rolled back or deleted, a
		// transaction must not be committed: dividing by zero refuses it.
		finish: with(`WITH done AS (UPDATE {table} SET done = true, outcome = $3, until = clock_timestamp() + $4 * interval '1 microsecond',
 expires = clock_timestamp() + $4 * interval '1 microsecond' WHERE id = $1 AND owner = $2 AND NOT done RETURNING 1)
SELECT 1 / count(*) FROM done`),
		expire: with(`DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE expires <= clock_timestamp() LIMIT $1 FOR UPDATE SKIP LOCKED)`),
	}
}

// row is a record as it is read.
type row struct {
	owner       string
	fence       int64
	fingerprint idempotency.Fingerprint
	done, live  bool // live: its lease or its retention lasts
	outcome     []byte
}

// begun returns what a record tells whoever claims it, or false if it is not
// there any more.
func (r *row) begun(claim *idempotency.Claim) (idempotency.Begun, bool) {
	differs := claim.Fingerprint.Differs(r.fingerprint)
	switch {
	case r.done && !r.live:
		return idempotency.Begun{}, false
	case differs:
		return idempotency.Begun{State: idempotency.Reused}, true
	case r.done:
		return idempotency.Begun{State: idempotency.Replay, Outcome: r.outcome}, true
	case r.owner == claim.Owner:
		return idempotency.Begun{State: idempotency.Run, Fence: uint64(r.fence)}, true //nolint:gosec // it is not negative
	case r.live:
		return idempotency.Begun{State: idempotency.Join}, true
	default:
		return idempotency.Begun{}, false
	}
}

// scanRow reads a record, or nil if there is none.
func scanRow(from pgx.Row) (*row, error) {
	var (
		r   row
		sum []byte
	)
	err := from.Scan(&r.owner, &r.fence, &r.fingerprint.Schema, &sum, &r.done, &r.live, &r.outcome)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // none
	}
	if err != nil {
		return nil, err
	}
	if copy(r.fingerprint.Sum[:], sum) != len(sum) || len(sum) != len(r.fingerprint.Sum) {
		return nil, fmt.Errorf("%w: its fingerprint has %d bytes", idempotency.ErrCorrupt, len(sum))
	}
	return &r, nil
}

// readCommitted begins a transaction of the isolation that the store needs: at
// others, PostgreSQL refuses what this one waits for.
const readCommitted = "BEGIN ISOLATION LEVEL READ COMMITTED"

func (s *Store) claimArgs(c *idempotency.Claim) []any {
	return []any{
		c.ID[:], c.Owner, c.Fingerprint.Schema, c.Fingerprint.Sum[:],
		c.Lease.Microseconds(), abandoned.Microseconds(),
	}
}

// tries is how often a step is taken again because the record changed between
// its two statements.
const tries = 20

// Begin claims a write, or tells what is known of it.
func (s *Store) Begin(ctx context.Context, claim idempotency.Claim) (idempotency.Begun, error) {
	if claim.Owner == "" || claim.Lease < time.Microsecond {
		return idempotency.Begun{}, errors.New("pgstore: a claim needs an owner, and a lease of more than nothing")
	}
	for range tries {
		begun, ok, err := s.begin(ctx, &claim)
		if ok || err != nil {
			return begun, wrap("begin", err)
		}
	}
	return idempotency.Begun{}, errors.New("pgstore: begin: the record changes too often")
}

func (s *Store) begin(ctx context.Context, claim *idempotency.Claim) (idempotency.Begun, bool, error) {
	var (
		begun idempotency.Begun
		ok    bool
	)
	b := &pgx.Batch{}
	b.Queue(readCommitted)
	b.Queue(s.sql.claim, s.claimArgs(claim)...).QueryRow(func(row pgx.Row) error {
		fresh, err := scanClaim(row)
		if fresh != nil {
			begun, ok = *fresh, true
		}
		return err
	})
	b.Queue(s.sql.read, claim.ID[:]).QueryRow(func(from pgx.Row) error {
		r, err := scanRow(from)
		if r != nil && !ok {
			begun, ok = r.begun(claim)
		}
		return err
	})
	b.Queue("COMMIT")
	err := s.pool.SendBatch(ctx, b).Close()
	return begun, ok && err == nil, err
}

// scanClaim reads what a claim has got, or nil if it has got nothing.
func scanClaim(row pgx.Row) (*idempotency.Begun, error) {
	var (
		fence     int64
		takenOver bool
	)
	err := row.Scan(&fence, &takenOver)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // nothing
	}
	if err != nil {
		return nil, err
	}
	return &idempotency.Begun{State: idempotency.Run, Fence: uint64(fence), TakenOver: takenOver}, nil //nolint:gosec // it is not negative
}

// Complete ends a write with its outcome.
func (s *Store) Complete(ctx context.Context, lease idempotency.Lease, outcome []byte, retention time.Duration) error {
	var owned, done bool
	b := &pgx.Batch{}
	b.Queue(s.sql.complete, lease.ID[:], lease.Owner, int64(lease.Fence), notNil(outcome), max(0, retention.Microseconds()), lease.ID.String()) //nolint:gosec // it came from here
	b.Queue(s.sql.completed, lease.ID[:], lease.Owner, int64(lease.Fence)).QueryRow(func(row pgx.Row) error {                                   //nolint:gosec // likewise
		err := row.Scan(&done)
		owned = err == nil
		return ignoreNone(err)
	})
	err := s.pool.SendBatch(ctx, b).Close()
	switch {
	case err != nil:
		return wrap("complete", err)
	case !owned || !done:
		return idempotency.ErrLeaseLost
	default:
		s.waiting.Wake(lease.ID)
		return nil
	}
}

// Extend makes the lease last for d from now.
func (s *Store) Extend(ctx context.Context, lease idempotency.Lease, d time.Duration) error {
	tag, err := s.pool.Exec(ctx, s.sql.extend, lease.ID[:], lease.Owner, int64(lease.Fence), d.Microseconds(), abandoned.Microseconds()) //nolint:gosec // it came from here
	switch {
	case err != nil:
		return wrap("extend", err)
	case tag.RowsAffected() == 0:
		return idempotency.ErrLeaseLost
	default:
		return nil
	}
}

// Release gives up a write that had no effect.
func (s *Store) Release(ctx context.Context, lease idempotency.Lease) error {
	var done bool
	b := &pgx.Batch{}
	b.Queue(s.sql.release, lease.ID[:], lease.Owner, int64(lease.Fence), lease.ID.String())                   //nolint:gosec // it came from here
	b.Queue(s.sql.completed, lease.ID[:], lease.Owner, int64(lease.Fence)).QueryRow(func(row pgx.Row) error { //nolint:gosec // likewise
		return ignoreNone(row.Scan(&done))
	})
	err := s.pool.SendBatch(ctx, b).Close()
	switch {
	case err != nil:
		return wrap("release", err)
	case done:
		return idempotency.ErrLeaseLost
	default:
		s.waiting.Wake(lease.ID)
		return nil
	}
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
	codeUndefinedTable = "42P01"
	codeNoSchema       = "3F000"
)

func hasCode(err error, codes ...string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains(codes, pg.Code)
}

func isMissing(err error) bool { return hasCode(err, codeUndefinedTable, codeNoSchema) }
