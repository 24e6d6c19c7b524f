package pgstore

import (
	"context"
	"errors"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// Transactional reports whether the store has [WithTransactions].
func (s *Store) Transactional() bool { return s.transactions }

// flights are the writes that are run in transactions of this process: whoever
// waits for one needs no connection.
type flights struct {
	mu  sync.Mutex
	ids map[idempotency.ID]chan struct{} // closed at the end
}

// enter begins a flight, or returns what tells the end of the one there is.
func (f *flights) enter(id idempotency.ID) (leave func(), busy <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if there, ok := f.ids[id]; ok {
		return nil, there
	}
	if f.ids == nil {
		f.ids = map[idempotency.ID]chan struct{}{}
	}
	over := make(chan struct{})
	f.ids[id] = over
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.ids, id)
		close(over)
	}, nil
}

// Transact claims a write and runs it in a transaction, or returns its state.
func (s *Store) Transact(ctx context.Context, claim idempotency.Claim, run func(ctx context.Context, claimed idempotency.BeginResult) idempotency.Verdict) (idempotency.BeginResult, error) {
	if claim.Owner == "" || claim.Lease < time.Microsecond {
		return idempotency.BeginResult{}, errors.New("pgstore: a claim must have an owner and a positive lease")
	}
	patience := ctx
	if claim.Wait > 0 {
		var stop context.CancelFunc
		patience, stop = context.WithTimeout(ctx, claim.Wait)
		defer stop()
	}
	f := flight{store: s, claim: &claim, patience: patience, run: run}
	for left := tries; left > 0; left-- {
		before := f.waits
		begun, ok, err := f.attempt(ctx)
		if ok || err != nil {
			begun.Waited = f.waits > 0
			return begun, err
		}
		if f.waits > before { // which has a bound of its own
			left++
		}
	}
	return idempotency.BeginResult{}, errors.New("pgstore: transact: the record changes too often")
}

// flight is one write on its way through a transaction.
type flight struct {
	store    *Store
	claim    *idempotency.Claim
	patience context.Context // bounds waits
	run      func(ctx context.Context, claimed idempotency.BeginResult) idempotency.Verdict
	waits    int // for others

	// Of the transaction: whether it is to make the record rather than to change one
	// that has expired, in which table, and when it began.
	fresh bool
	table uint32
	began float64 // by the database's clock, in seconds
}

// attempt tries once. It is to be tried again if it returns neither an answer nor
// an error.
func (f *flight) attempt(ctx context.Context) (idempotency.BeginResult, bool, error) {
	if len(f.store.slots) == cap(f.store.slots) { // a stored outcome need not wait for handlers
		if begun, ok, err := f.peek(ctx); ok || err != nil {
			return begun, ok, err
		}
	}
	leave, busy := f.store.flights.enter(f.claim.ID)
	if busy == nil {
		begun, ok, err := f.fly(ctx, leave)
		if ok || err != nil || begun.State != idempotency.Join {
			return begun, ok, err
		}
		// It is claimed under a lease, by a server that uses no transactions.
		if err := f.store.Wait(f.patience, f.claim.ID); err != nil && f.patience.Err() == nil {
			return begun, false, err
		}
	} else {
		select {
		case <-busy:
		case <-f.patience.Done():
		}
	}
	f.waits++
	if f.patience.Err() != nil {
		return idempotency.BeginResult{State: idempotency.Join}, true, ctx.Err()
	}
	return f.peek(ctx)
}

// peek asks what is known, without a claim.
func (f *flight) peek(ctx context.Context) (begun idempotency.BeginResult, ok bool, err error) {
	r, err := scanRow(f.store.own.QueryRow(ctx, f.store.sql.read, f.claim.ID[:]))
	if err != nil {
		return begun, false, wrap("transact", err)
	}
	if r != nil && r.done {
		begun, ok = r.begun(f.claim)
	}
	return begun, ok, nil
}

// fly claims the write, in a transaction in which it then runs it. If it is
// claimed under a lease, it returns that without ok.
func (f *flight) fly(ctx context.Context, leave func()) (begun idempotency.BeginResult, ok bool, err error) {
	defer leave()
	pooled, release, err := f.store.acquire(ctx)
	if err != nil {
		return begun, false, wrap("transact", err)
	}
	defer release()
	conn := pooled.Conn()
	inner, what, err := f.begin(ctx, conn)
	switch {
	case hasCode(err, codeSerialization, codeDeadlock): // before the handler has run
		return begun, false, f.rollback(ctx, conn)
	case hasCode(err, codeLockTimeout), hasCode(err, codeCanceled) && ctx.Err() == nil: // by the role's own timeout
		return idempotency.BeginResult{State: idempotency.Join}, true, f.rollback(ctx, conn)
	case err != nil:
		_ = f.rollback(ctx, conn)
		return begun, false, wrap("transact", err)
	}
	begun, ok = what.begun(f.claim)
	if !what.claimed {
		return begun, ok && begun.State != idempotency.Join, f.rollback(ctx, conn)
	}
	t := &tx{Tx: inner, hands: &hands{conn: pooled}}
	var verdict idempotency.Verdict // to roll back, if the handler panics
	defer func() {
		t.hands.close(f.store.settle)
		ended := f.end(ctx, conn, verdict)
		if lost := (*lostCommitError)(nil); errors.As(ended, &lost) {
			ended = f.resolve(ctx, lost.error)
		}
		if err == nil {
			err = ended
		}
	}()
	verdict = f.run(context.WithValue(ctx, txContext{}, t), begun)
	return begun, true, nil
}

// acquire takes a connection of the application's pool, of which it leaves one: a handler in
// a transaction may use the pool, too. What it returns gives the connection back, and closes
// it if it is still in a transaction.
func (s *Store) acquire(ctx context.Context) (conn *stdlib.Conn, release func(), err error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	defer func() { // also if a hook of the pool panics
		if conn == nil {
			<-s.slots
		}
	}()
	raw, err := s.connector.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	conn, _ = raw.(*stdlib.Conn) // as is documented
	return conn, func() {
		_ = conn.Close()
		<-s.slots
	}, nil
}

// begin begins the transaction and claims the record in it, waiting for whoever
// has claimed it in another.
func (f *flight) begin(ctx context.Context, conn *pgx.Conn) (inner pgx.Tx, t told, err error) {
	var (
		free, readCommitted bool
		options             = pgx.TxOptions{IsoLevel: f.store.isolation}
		snapshot            = f.store.isolation != "" // what is read is as it was when the transaction began
	)
	if f.store.isolates.Load() && !snapshot {
		options.IsoLevel = pgx.ReadCommitted
	}
	b := &pgx.Batch{}
	b.BeginTx(options)
	b.Queue(f.store.sql.seize, lockOf(f.claim.ID)).QueryRow(func(row pgx.Row) error {
		return row.Scan(&free, &f.table, &f.began, &readCommitted)
	})
	if !snapshot {
		f.queueRead(b, &t)
	}
	b.Queue(savepoint)
	results := conn.SendBatch(ctx, b)
	err = results.Close()
	if err == nil && !readCommitted && options.IsoLevel == "" {
		f.store.isolates.Store(true)
		if err := f.rollback(ctx, conn); err != nil {
			return nil, t, err
		}
		return f.begin(ctx, conn)
	}
	if err == nil && !free {
		t, err = f.wait(ctx, conn)
		if err == nil && snapshot { // which is from before the wait
			if err := f.rollback(ctx, conn); err != nil {
				return nil, t, err
			}
			return f.begin(ctx, conn)
		}
	}
	if err == nil && snapshot {
		// By another connection, since the lock is taken after the snapshot, and since reading
		// here would make all transactions that write records conflict with each other.
		t.row, err = scanRow(f.store.own.QueryRow(ctx, f.store.sql.read, f.claim.ID[:]))
	}
	f.fresh = t.row == nil
	switch {
	case err != nil:
	case f.fresh:
		t.claimed, t.row = true, &row{}
	default:
		if _, ok := t.begun(f.claim); !ok {
			t, err = f.claimThere(ctx, conn)
		}
	}
	return results.Tx(), t, err
}

func (f *flight) queueRead(b *pgx.Batch, t *told) {
	b.Queue(f.store.sql.read, f.claim.ID[:]).QueryRow(func(row pgx.Row) (err error) {
		t.row, err = scanRow(row)
		return err
	})
}

// wait waits for the lock of the record, and reads the record then.
func (f *flight) wait(ctx context.Context, conn *pgx.Conn) (t told, err error) {
	f.waits++
	b := &pgx.Batch{}
	b.Queue(dropSavepoint) // which is to be after the lock
	b.Queue(saveLockTimeout)
	b.Queue("SELECT set_config('lock_timeout', $1, true)", lockTimeout(f.patience))
	b.Queue(f.store.sql.wait, lockOf(f.claim.ID))
	b.Queue(ownLockTimeout)
	f.queueRead(b, &t)
	b.Queue(savepoint)
	err = conn.SendBatch(ctx, b).Close()
	return t, err
}

// claimThere claims a record that has expired.
func (f *flight) claimThere(ctx context.Context, conn *pgx.Conn) (t told, err error) {
	b := &pgx.Batch{}
	b.Queue(dropSavepoint) // which is to be after the claim
	b.Queue(saveLockTimeout)
	b.Queue(f.store.sql.claim, f.store.claimArgs(f.claim, lockTimeout(f.patience))...).QueryRow(func(row pgx.Row) (err error) {
		t, err = scanClaim(row)
		return err
	})
	b.Queue(ownLockTimeout)
	b.Queue(savepoint)
	err = conn.SendBatch(ctx, b).Close()
	return t, err
}

// The handler is to have the lock_timeout of its session, whatever was needed to
// wait.
const (
	saveLockTimeout = "SELECT set_config('hopbound.lock_timeout', current_setting('lock_timeout'), true)"
	ownLockTimeout  = "SELECT set_config('lock_timeout', current_setting('hopbound.lock_timeout'), true)"
)

// The mark in the transaction before which the handler's own writes begin. A handler does not
// have one of the same name by chance.
const (
	savepoint     = "SAVEPOINT hopbound_7c1e9f40"
	dropSavepoint = "RELEASE SAVEPOINT hopbound_7c1e9f40"
	undo          = "ROLLBACK TO SAVEPOINT hopbound_7c1e9f40"
)

// lockTimeout returns how long to wait for a lock until ctx ends, in milliseconds
// as text; 0 is without end.
func lockTimeout(ctx context.Context) string {
	until, ok := ctx.Deadline()
	if !ok {
		return "0"
	}
	return strconv.FormatInt(min(max(1, time.Until(until).Milliseconds()), math.MaxInt32), 10)
}

func (f *flight) rollback(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "ROLLBACK")
	return wrap("transact", err)
}
