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
// It returns false if there is no connection or BEGIN fails.
func Tx(ctx context.Context) (*sql.Tx, bool) {
	switch t := ctx.Value(txContext{}).(type) {
	case *loan:
		return t.tx, true
	case *observedTx:
		if l := t.get(ctx); l != nil {
			return l.tx, true
		}
	}
	return nil, false
}

var (
	errNotYours = errors.New("sqlitestore: the transaction ends when the handler returns")
	errEnded    = errors.New("sqlitestore: the transaction has ended: SQLite has rolled it back, or the handler has ended it")
)

// loan is the store's transaction in the hands of a handler: a [sql.Tx] of a pool that has only
// the transaction's connection.
type loan struct {
	db *sql.DB
	tx *sql.Tx
}

// lend lends the transaction to a handler.
func (t *transaction) lend(ctx context.Context) (*loan, error) {
	lent := lentConn{db: t.file.db}
	err := t.conn.Raw(func(raw any) (err error) {
		var ok bool
		if lent.driverConn, ok = raw.(driverConn); !ok {
			err = errors.New("the driver's connections have no PrepareContext or ExecContext")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(lent)
	tx, err := db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &loan{db: db, tx: tx}, nil
}

// end takes back what the handler has, and closes rows and statements that are still open. The
// transaction itself goes on.
func (l *loan) end() {
	_ = l.tx.Rollback()
	_ = l.db.Close()
}

// driverConn is what the store needs of a driver's connection.
type driverConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ExecerContext
}

// lentConn is a connection in the store's transaction, which database/sql neither begins nor ends.
type lentConn struct {
	driverConn

	db *sql.DB
}

// Connect returns the connection.
func (c lentConn) Connect(context.Context) (driver.Conn, error) { return c, nil }

// Driver returns the application's.
func (c lentConn) Driver() driver.Driver { return c.db.Driver() }

// Close leaves the connection open.
func (lentConn) Close() error { return nil }

// BeginTx returns the transaction that there is.
func (lentConn) BeginTx(context.Context, driver.TxOptions) (driver.Tx, error) { return notYours{}, nil }

// notYours is the store's transaction as database/sql sees it.
type notYours struct{}

// Commit fails.
func (notYours) Commit() error { return errNotYours }

// Rollback does nothing.
func (notYours) Rollback() error { return nil }

// isOpen returns an error unless the transaction is still there. SQLite rolls a transaction back
// by itself after some errors, and if a statement that writes is interrupted. Without this check,
// what the handler writes after that would be committed alone. BEGIN fails in a transaction.
func (c lentConn) isOpen(ctx context.Context) error {
	if _, err := c.driverConn.ExecContext(ctx, "BEGIN", nil); err != nil {
		return nil //nolint:nilerr // as it should
	}
	_, err := c.driverConn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK", nil)
	return errors.Join(errEnded, err)
}

// ExecContext runs a statement in the transaction.
func (c lentConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := c.isOpen(ctx); err != nil {
		return nil, err
	}
	return c.driverConn.ExecContext(ctx, query, args)
}

// QueryContext runs a query in the transaction, if the driver can do so without preparing it.
func (c lentConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
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
func (c lentConn) CheckNamedValue(v *driver.NamedValue) error { return convert(c.driverConn, v) }

func convert(by any, v *driver.NamedValue) error {
	if checker, ok := by.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

// PrepareContext prepares a statement, which then runs in the transaction.
func (c lentConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.driverConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if s, ok := s.(driverStmt); ok {
		return lentStmt{s, c}, nil
	}
	return nil, errors.Join(errors.New("sqlitestore: the driver's statements have no ExecContext or QueryContext"), s.Close())
}

// driverStmt is what the store needs of a driver's statement.
type driverStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// lentStmt is a statement of a lentConn.
type lentStmt struct {
	driverStmt

	conn lentConn
}

// ExecContext runs the statement in the transaction.
func (s lentStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if err := s.conn.isOpen(ctx); err != nil {
		return nil, err
	}
	return s.driverStmt.ExecContext(ctx, args)
}

// QueryContext runs the query in the transaction.
func (s lentStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	if err := s.conn.isOpen(ctx); err != nil {
		return nil, err
	}
	return s.driverStmt.QueryContext(ctx, args)
}

// CheckNamedValue converts an argument as the driver does.
func (s lentStmt) CheckNamedValue(v *driver.NamedValue) error {
	if _, ok := s.driverStmt.(driver.NamedValueChecker); ok {
		return convert(s.driverStmt, v)
	}
	return convert(s.conn.driverConn, v)
}
