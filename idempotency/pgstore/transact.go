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

// localLocks lock the writes that run in transactions of this process, so that callers that wait for
// one need no connection. The zero value has none. It is safe for concurrent use.
type localLocks struct {
	mu  sync.Mutex
	ids map[idempotency.ID]chan struct{} // closed when the lock is released
}

// tryLock locks a write, or returns a channel that is closed when its holder unlocks it.
func (l *localLocks) tryLock(id idempotency.ID) (unlock func(), busy <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, ok := l.ids[id]; ok {
		return nil, held
	}
	if l.ids == nil {
		l.ids = map[idempotency.ID]chan struct{}{}
	}
	released := make(chan struct{})
	l.ids[id] = released
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.ids, id)
		close(released)
	}, nil
}

// Transact claims a write and runs it in a transaction, or returns its state.
func (s *Store) Transact(ctx context.Context, claim idempotency.Claim, run func(ctx context.Context, claimed idempotency.BeginResult) idempotency.Verdict) (idempotency.BeginResult, error) {
	if err := validate(&claim); err != nil {
		return idempotency.BeginResult{}, err
	}
	waitLimit := ctx
	if claim.Wait > 0 {
		var cancel context.CancelFunc
		waitLimit, cancel = context.WithTimeout(ctx, claim.Wait)
		defer cancel()
	}
	c := txClaim{store: s, claim: &claim, waitLimit: waitLimit, handler: run}
	for left := maxTries; left > 0; left-- {
		before := c.waits
		result, ok, err := c.attempt(ctx)
		if ok || err != nil {
			result.Waited = c.waits > 0
			return result, err
		}
		if c.waits > before { // an attempt that waits does not count: waitLimit bounds it
			left++
		}
	}
	return idempotency.BeginResult{}, errors.New("pgstore: transact: the record changes too often")
}

// txClaim is a write that is claimed and run in a transaction.
type txClaim struct {
	store     *Store
	claim     *idempotency.Claim
	waitLimit context.Context // bounds waits for other runs
	handler   func(ctx context.Context, claimed idempotency.BeginResult) idempotency.Verdict
	waits     int // for other runs

	// Of the transaction: whether it inserts the record rather than updates an expired one, the
	// table of the record, and when the transaction began.
	fresh bool
	table uint32
	began float64 // by the database's clock, in seconds
}

// attempt tries once to claim and run the write. If it returns neither ok nor an error, the caller
// tries again.
func (c *txClaim) attempt(ctx context.Context) (idempotency.BeginResult, bool, error) {
	if len(c.store.slots) == cap(c.store.slots) { // a stored outcome need not wait for handlers
		if result, ok, err := c.readDone(ctx); ok || err != nil {
			return result, ok, err
		}
	}
	unlock, busy := c.store.running.tryLock(c.claim.ID)
	if busy == nil {
		result, ok, err := c.runInTx(ctx, unlock)
		if ok || err != nil || result.State != idempotency.Join {
			return result, ok, err
		}
		// A server without transactions has claimed it under a lease.
		if err := c.store.Wait(c.waitLimit, c.claim.ID); err != nil && c.waitLimit.Err() == nil {
			return result, false, err
		}
	} else {
		select {
		case <-busy:
		case <-c.waitLimit.Done():
		}
	}
	c.waits++
	if c.waitLimit.Err() != nil {
		return idempotency.BeginResult{State: idempotency.Join}, true, ctx.Err()
	}
	return c.readDone(ctx)
}

// readDone returns the outcome if the write is done, without a claim.
func (c *txClaim) readDone(ctx context.Context) (result idempotency.BeginResult, ok bool, err error) {
	r, err := scanRow(c.store.own.QueryRow(ctx, c.store.sql.read, c.claim.ID[:]))
	if err != nil {
		return result, false, wrap("transact", err)
	}
	if r != nil && r.done {
		result, ok = r.result(c.claim)
	}
	return result, ok, nil
}

// runInTx claims the write in a transaction, and runs it there. If another owner has claimed it under
// a lease, it returns Join without ok.
func (c *txClaim) runInTx(ctx context.Context, unlock func()) (result idempotency.BeginResult, ok bool, err error) {
	defer unlock()
	pooled, release, err := c.store.acquire(ctx)
	if err != nil {
		return result, false, wrap("transact", err)
	}
	defer release()
	conn := pooled.Conn()
	inner, claimed, err := c.begin(ctx, conn)
	switch {
	case hasCode(err, codeSerialization, codeDeadlock): // before the handler has run
		return result, false, c.rollback(ctx, conn)
	case hasCode(err, codeLockTimeout), hasCode(err, codeCanceled) && ctx.Err() == nil: // by a timeout of the role
		return idempotency.BeginResult{State: idempotency.Join}, true, c.rollback(ctx, conn)
	case err != nil:
		_ = c.rollback(ctx, conn)
		return result, false, wrap("transact", err)
	}
	result, ok = claimed.result(c.claim)
	if !claimed.claimed {
		return result, ok && result.State != idempotency.Join, c.rollback(ctx, conn)
	}
	t := &tx{Tx: inner, shared: &sharedTx{conn: pooled}}
	var verdict idempotency.Verdict // rolls back, if the handler panics
	defer func() {
		t.shared.close(c.store.settle)
		if ended := c.end(ctx, conn, verdict); err == nil {
			err = ended
		}
	}()
	verdict = c.handler(context.WithValue(ctx, txContext{}, t), result)
	return result, true, nil
}

// acquire takes a connection of the application's pool. It leaves one connection, so that handlers in
// transactions can use the pool for other queries. Release returns the connection, or closes it if it
// is still in a transaction.
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
	conn, _ = raw.(*stdlib.Conn) // GetPoolConnector documents the type
	return conn, func() {
		_ = conn.Close()
		<-s.slots
	}, nil
}

// begin begins the transaction and claims the record in it. It waits for the transaction that has
// claimed the record, if there is one.
func (c *txClaim) begin(ctx context.Context, conn *pgx.Conn) (inner pgx.Tx, claimed claimResult, err error) {
	snapshot := c.store.isolation != "" // statements see the snapshot from before the lock
	options := pgx.TxOptions{IsoLevel: c.store.isolation}
	if c.store.asksIsolation.Load() && !snapshot {
		options.IsoLevel = pgx.ReadCommitted
	}
	var locked, readCommitted bool
	b := &pgx.Batch{}
	b.BeginTx(options)
	b.Queue(c.store.sql.tryLock, lockOf(c.claim.ID)).QueryRow(func(row pgx.Row) error {
		return row.Scan(&locked, &c.table, &c.began, &readCommitted)
	})
	if !snapshot {
		c.queueRead(b, &claimed)
	}
	b.Queue(savepoint)
	results := conn.SendBatch(ctx, b)
	if err := results.Close(); err != nil {
		return results.Tx(), claimed, err
	}
	if !readCommitted && options.IsoLevel == "" { // the session's default is another isolation
		c.store.asksIsolation.Store(true)
		return c.beginAgain(ctx, conn)
	}
	if !locked {
		if claimed, err = c.lock(ctx, conn); err == nil && snapshot { // which is from before the wait
			return c.beginAgain(ctx, conn)
		}
	}
	if err == nil && snapshot {
		// By another connection, because the lock was taken after the snapshot, and because a read
		// here would make all transactions that insert records conflict with each other.
		claimed.row, err = scanRow(c.store.own.QueryRow(ctx, c.store.sql.read, c.claim.ID[:]))
	}
	if err == nil {
		claimed, err = c.claimRow(ctx, conn, claimed)
	}
	return results.Tx(), claimed, err
}

// beginAgain rolls the transaction back, and begins another.
func (c *txClaim) beginAgain(ctx context.Context, conn *pgx.Conn) (pgx.Tx, claimResult, error) {
	if err := c.rollback(ctx, conn); err != nil {
		return nil, claimResult{}, err
	}
	return c.begin(ctx, conn)
}

// claimRow claims the record that was read, while the transaction holds its lock.
func (c *txClaim) claimRow(ctx context.Context, conn *pgx.Conn, read claimResult) (claimResult, error) {
	c.fresh = read.row == nil
	if c.fresh {
		return claimResult{claimed: true, row: &row{}}, nil
	}
	if _, ok := read.result(c.claim); ok {
		return read, nil
	}
	return c.claimExpired(ctx, conn)
}

// queueRead queues the statement that reads the record.
func (c *txClaim) queueRead(b *pgx.Batch, read *claimResult) {
	b.Queue(c.store.sql.read, c.claim.ID[:]).QueryRow(func(row pgx.Row) (err error) {
		read.row, err = scanRow(row)
		return err
	})
}

// lock waits for the lock of the record, and then reads the record.
func (c *txClaim) lock(ctx context.Context, conn *pgx.Conn) (read claimResult, err error) {
	c.waits++
	b := &pgx.Batch{}
	b.Queue(dropSavepoint) // to set it again after the lock
	b.Queue(saveLockTimeout)
	b.Queue("SELECT set_config('lock_timeout', $1, true)", lockTimeout(c.waitLimit))
	b.Queue(c.store.sql.lock, lockOf(c.claim.ID))
	b.Queue(restoreLockTimeout)
	c.queueRead(b, &read)
	b.Queue(savepoint)
	err = conn.SendBatch(ctx, b).Close()
	return read, err
}

// claimExpired claims a record that has expired or was released.
func (c *txClaim) claimExpired(ctx context.Context, conn *pgx.Conn) (claimed claimResult, err error) {
	b := &pgx.Batch{}
	b.Queue(dropSavepoint) // to set it again after the claim
	b.Queue(saveLockTimeout)
	b.Queue(c.store.sql.claim, c.store.claimArgs(c.claim, lockTimeout(c.waitLimit))...).QueryRow(func(row pgx.Row) (err error) {
		claimed, err = scanClaim(row)
		return err
	})
	b.Queue(restoreLockTimeout)
	b.Queue(savepoint)
	err = conn.SendBatch(ctx, b).Close()
	return claimed, err
}

// The store changes lock_timeout for its own waits. The handler gets the lock_timeout of its session.
const (
	saveLockTimeout    = "SELECT set_config('hopbound.lock_timeout', current_setting('lock_timeout'), true)"
	restoreLockTimeout = "SELECT set_config('lock_timeout', current_setting('hopbound.lock_timeout'), true)"
)

// The savepoint after which the handler writes. No handler has a savepoint of this name by chance.
const (
	savepoint           = "SAVEPOINT hopbound_7c1e9f40"
	dropSavepoint       = "RELEASE SAVEPOINT hopbound_7c1e9f40"
	rollbackToSavepoint = "ROLLBACK TO SAVEPOINT hopbound_7c1e9f40"
)

// lockTimeout returns the time until the deadline of ctx as a setting of lock_timeout, in
// milliseconds. 0 is no bound.
func lockTimeout(ctx context.Context) string {
	until, ok := ctx.Deadline()
	if !ok {
		return "0"
	}
	return strconv.FormatInt(min(max(1, time.Until(until).Milliseconds()), math.MaxInt32), 10)
}

func (c *txClaim) rollback(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "ROLLBACK")
	return wrap("transact", err)
}
