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

// SQLTx returns the transaction that [Tx] returns as a [sql.Tx], or false if there is none. Pass
// it to libraries for database/sql, such as sqlc, sqlx, GORM or ent. The store ends it: Commit
// fails, and the handler must return that error. Rollback does nothing. Use both from one goroutine
// at a time.
func SQLTx(ctx context.Context) (*sql.Tx, bool) {
	t := txFrom(ctx)
	if t == nil {
		return nil, false
	}
	tx, err := t.hands.sqlTx(ctx)
	return tx, err == nil
}

// hands are what a handler may hold of a transaction, and is not to use when it has returned.
type hands struct {
	conn   *stdlib.Conn
	closed atomic.Bool

	mu sync.Mutex
	db *sql.DB // of this connection alone; nil until it is asked for
	tx *sql.Tx
}

// sqlTx returns the transaction as one of database/sql.
func (h *hands) sqlTx(ctx context.Context) (*sql.Tx, error) {
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

// close ends what the handler has. The transaction itself goes on. It waits for a statement of
// database/sql that a goroutine of the handler's has left behind, but no longer than patience:
// then the transaction cannot be committed, and its connection is closed.
func (h *hands) close(patience time.Duration) {
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
			_ = h.tx.Rollback() // which closes rows and statements that are still open
		}
		_ = h.db.Close()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
}

// oneConn connects by a connection that there is.
type oneConn struct{ conn *stdlib.Conn }

// Connect returns the connection.
func (c oneConn) Connect(context.Context) (driver.Conn, error) { return sqlConn{c.conn}, nil }

// Driver returns pgx's.
func (c oneConn) Driver() driver.Driver { return stdlib.GetDefaultDriver() }

// sqlConn is a connection in the store's transaction, which database/sql neither begins nor
// ends.
type sqlConn struct{ *stdlib.Conn }

// BeginTx returns the transaction that there is.
func (sqlConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) { return notYours{}, nil }

// Close leaves the connection open.
func (sqlConn) Close() error { return nil }

// ResetSession leaves the session as it is.
func (sqlConn) ResetSession(context.Context) error { return nil }

// notYours is the store's transaction in the hands of database/sql.
type notYours struct{}

// Commit fails.
func (notYours) Commit() error { return errNotYours }

// Rollback does nothing.
func (notYours) Rollback() error { return nil }
