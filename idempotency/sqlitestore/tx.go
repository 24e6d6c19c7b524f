package sqlitestore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
)

type txContext struct{}

// Tx returns the transaction of the handler with context ctx, or false if there is none, because the
// store has no [WithTransactions] or the call has no key. Use it from one goroutine at a time.
//
// The store ends the transaction. Commit fails, and the handler must return that error. Rollback
// does nothing. Both leave the [sql.Tx] unusable for the rest of the handler. A handler that wants
// to undo some of its writes uses SAVEPOINT. If the handler ends the transaction in SQL, or if
// SQLite rolls it back, all further statements fail.
//
// On a server in mode Observe, the first call of Tx begins the transaction and takes the write lock.
// It returns false if no connection is available or BEGIN fails, and does not report the cause.
func Tx(ctx context.Context) (*sql.Tx, bool) {
	switch t := ctx.Value(txContext{}).(type) {
	case *handlerTx:
		return t.tx, true
	case *observedTx:
		if h := t.get(ctx); h != nil {
			return h.tx, true
		}
	}
	return nil, false
}

var (
	errStoreEndsTx = errors.New("sqlitestore: the store ends the transaction when the handler returns")
	errEnded       = errors.New("sqlitestore: the transaction has ended: SQLite has rolled it back, or the handler has ended it")
)

// handlerTx is the store's transaction as a handler gets it: a [sql.Tx] of a pool that has only the
// transaction's connection.
type handlerTx struct {
	db *sql.DB
	tx *sql.Tx
}

// forHandler returns the transaction for the use of a handler.
func (t *transaction) forHandler(ctx context.Context) (*handlerTx, error) {
	conn := handlerConn{db: t.file.db}
	err := t.conn.Raw(func(raw any) (err error) {
		var ok bool
		if conn.driverConn, ok = raw.(driverConn); !ok {
			err = errors.New("the driver's connections have no PrepareContext or ExecContext")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(conn)
	tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &handlerTx{db: db, tx: tx}, nil
}

// end makes the handler's use of the transaction fail, and closes its rows and statements. The
// transaction itself stays open.
func (h *handlerTx) end() {
	_ = h.tx.Rollback()
	_ = h.db.Close()
}

// driverConn has the methods that the store needs of a driver's connection.
type driverConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
}

// handlerConn is the connection of the store's transaction. It keeps database/sql from beginning or
// ending the transaction.
type handlerConn struct {
	driverConn

	db *sql.DB
}

// Connect returns the connection.
func (c handlerConn) Connect(context.Context) (driver.Conn, error) { return c, nil }

// Driver returns the application's driver.
func (c handlerConn) Driver() driver.Driver { return c.db.Driver() }

// Close leaves the connection open.
func (handlerConn) Close() error { return nil }

// BeginTx returns the store's transaction.
func (handlerConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) {
	return ownedTx{}, nil
}

// ownedTx is the store's transaction as database/sql sees it.
type ownedTx struct{}

// Commit fails.
func (ownedTx) Commit() error { return errStoreEndsTx }

// Rollback does nothing.
func (ownedTx) Rollback() error { return nil }

// isOpen returns an error unless the transaction is still open. SQLite itself rolls a transaction
// back after some errors, and if a statement that writes is interrupted. Without this check, the
// handler's later writes would be committed without the outcome. isOpen tries to BEGIN, which fails
// in an open transaction.
func (c handlerConn) isOpen(ctx context.Context) error {
	if _, err := c.driverConn.ExecContext(ctx, "BEGIN", nil); err != nil {
		return nil //nolint:nilerr // the transaction is there
	}
	_, err := c.driverConn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK", nil)
	return errors.Join(errEnded, err)
}

// ExecContext runs a statement in the transaction.
func (c handlerConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.isOpen(ctx); err != nil {
		return nil, err
	}
	return c.driverConn.ExecContext(ctx, query, args)
}

// QueryContext runs a query in the transaction, if the driver can do so without preparing it.
func (c handlerConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	q, ok := c.driverConn.(driver.QueryerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	if err := c.isOpen(ctx); err != nil {
		return nil, err
	}
	return q.QueryContext(ctx, query, args)
}

// CheckNamedValue converts an argument as the driver does.
func (c handlerConn) CheckNamedValue(v *driver.NamedValue) error { return convert(c.driverConn, v) }

func convert(by any, v *driver.NamedValue) error {
	if checker, ok := by.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

// PrepareContext prepares a statement, which then runs in the transaction.
func (c handlerConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.driverConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if s, ok := s.(driverStmt); ok {
		return handlerStmt{s, c}, nil
	}
	return nil, errors.Join(errors.New("sqlitestore: the driver's statements have no ExecContext or QueryContext"), s.Close())
}

// driverStmt has the methods that the store needs of a driver's statement.
type driverStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// handlerStmt is a statement of a handlerConn.
type handlerStmt struct {
	driverStmt

	conn handlerConn
}

// ExecContext runs the statement in the transaction.
func (s handlerStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.conn.isOpen(ctx); err != nil {
		return nil, err
	}
	return s.driverStmt.ExecContext(ctx, args)
}

// QueryContext runs the query in the transaction.
func (s handlerStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.conn.isOpen(ctx); err != nil {
		return nil, err
	}
	return s.driverStmt.QueryContext(ctx, args)
}

// CheckNamedValue converts an argument as the driver does.
func (s handlerStmt) CheckNamedValue(v *driver.NamedValue) error {
	if _, ok := s.driverStmt.(driver.NamedValueChecker); ok {
		return convert(s.driverStmt, v)
	}
	return convert(s.conn.driverConn, v)
}
