package pgstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
)

// SQLTx returns the transaction of [Tx] as a [sql.Tx], or false if there is none. Pass it to libraries
// for database/sql, such as sqlc, sqlx, GORM or ent. The store ends the transaction: Commit fails, and
// the handler must return that error. Rollback does nothing. The transaction is not safe for
// concurrent use. Tx and SQLTx return the same transaction: do not use both results at the same time.
func SQLTx(ctx context.Context) (*sql.Tx, bool) {
	t := txFrom(ctx)
	if t == nil {
		return nil, false
	}
	tx, err := t.shared.sqlTx(ctx)
	return tx, err == nil
}

// sharedTx is the state that a transaction shares with its savepoints and with its [sql.Tx].
type sharedTx struct {
	conn   *stdlib.Conn
	closed atomic.Bool // the handler has returned

	mu sync.Mutex
	db *sql.DB // has only this connection; nil until SQLTx is called
	tx *sql.Tx
}

// sqlTx returns the transaction as a [sql.Tx].
func (h *sharedTx) sqlTx(ctx context.Context) (*sql.Tx, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed.Load():
		return nil, sql.ErrTxDone
	case h.tx != nil:
		return h.tx, nil
	}
	h.db = sql.OpenDB(oneConn{h.conn})
	tx, err := h.db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return nil, err
	}
	h.tx = tx
	return tx, nil
}

// close makes the handler's use of the transaction fail. The transaction itself stays open. If a
// goroutine of the handler still runs a statement of database/sql, close waits for it, but no longer
// than the timeout: then the transaction cannot be committed, and its connection is closed.
func (h *sharedTx) close(timeout time.Duration) {
	h.closed.Store(true)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.db == nil {
		return
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if h.tx != nil {
			_ = h.tx.Rollback() // closes rows and statements that are still open
		}
		_ = h.db.Close()
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
}

// oneConn is a connector that returns an existing connection.
type oneConn struct{ conn *stdlib.Conn }

// Connect returns the connection.
func (c oneConn) Connect(context.Context) (driver.Conn, error) { return sqlConn{c.conn}, nil }

// Driver returns the driver of pgx.
func (c oneConn) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// sqlConn is the connection of the store's transaction. It keeps database/sql from beginning or ending
// the transaction.
type sqlConn struct{ *stdlib.Conn }

// BeginTx returns the store's transaction.
func (sqlConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) { return ownedTx{}, nil }

// Close leaves the connection open.
func (sqlConn) Close() error { return nil }

// ResetSession leaves the session as it is.
func (sqlConn) ResetSession(context.Context) error { return nil }

// ownedTx is the store's transaction as database/sql sees it.
type ownedTx struct{}

// Commit fails.
func (ownedTx) Commit() error { return errStoreEndsTx }

// Rollback does nothing.
func (ownedTx) Rollback() error { return nil }
