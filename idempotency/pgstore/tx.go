package pgstore

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

type txContext struct{}

// Tx returns the transaction of the handler with context ctx, or false if there is none, because the
// store has no [WithTransactions] or the call has no key. The store ends the transaction when the
// handler has returned; the handler's own Commit and Rollback fail. Begin sets a savepoint. The
// transaction is not safe for concurrent use.
//
// On a server in mode Observe, the first call of Tx begins the transaction. It returns false if no
// connection is available or BEGIN fails, and does not report the cause.
func Tx(ctx context.Context) (pgx.Tx, bool) {
	if t := txFrom(ctx); t != nil {
		return t, true
	}
	return nil, false
}

func txFrom(ctx context.Context) *tx {
	switch t := ctx.Value(txContext{}).(type) {
	case *tx:
		return t
	case *observedTx:
		return t.get(ctx)
	default:
		return nil
	}
}

// errStoreEndsTx is returned to a handler that tries to end the store's transaction.
var errStoreEndsTx = errors.New("pgstore: the store ends the transaction when the handler returns")

// tx is the store's transaction, or a savepoint in it, as a handler gets it. It refuses statements
// once the handler has returned, because the handler may still use it then, while the connection
// belongs to another call.
type tx struct {
	pgx.Tx
	shared *sharedTx
	nested bool // it is a savepoint
}

// Begin sets a savepoint.
func (t *tx) Begin(ctx context.Context) (pgx.Tx, error) {
	if t.shared.closed.Load() {
		return nil, pgx.ErrTxClosed
	}
	inner, err := t.Tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &tx{Tx: inner, shared: t.shared, nested: true}, nil
}

// Commit releases a savepoint. It fails for the transaction.
func (t *tx) Commit(ctx context.Context) error { return t.end(ctx, t.Tx.Commit) }

// Rollback rolls back to a savepoint. It fails for the transaction.
func (t *tx) Rollback(ctx context.Context) error { return t.end(ctx, t.Tx.Rollback) }

func (t *tx) end(ctx context.Context, how func(context.Context) error) error {
	switch {
	case !t.nested:
		return errStoreEndsTx
	case t.shared.closed.Load():
		return pgx.ErrTxClosed
	default:
		return how(ctx)
	}
}

// CopyFrom copies rows into a table.
func (t *tx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, from pgx.CopyFromSource) (int64, error) {
	if t.shared.closed.Load() {
		return 0, pgx.ErrTxClosed
	}
	return t.Tx.CopyFrom(ctx, table, columns, from)
}

// SendBatch sends several statements in one round trip.
func (t *tx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if t.shared.closed.Load() {
		return closedBatch{}
	}
	return t.Tx.SendBatch(ctx, b)
}

// Prepare prepares a statement on the connection.
func (t *tx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if t.shared.closed.Load() {
		return nil, pgx.ErrTxClosed
	}
	return t.Tx.Prepare(ctx, name, sql)
}

// Exec runs a statement.
func (t *tx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if t.shared.closed.Load() {
		return pgconn.CommandTag{}, pgx.ErrTxClosed
	}
	return t.Tx.Exec(ctx, sql, args...)
}

// Query runs a query.
func (t *tx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.shared.closed.Load() {
		return nil, pgx.ErrTxClosed
	}
	return t.Tx.Query(ctx, sql, args...)
}

// QueryRow runs a query for one row.
func (t *tx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if t.shared.closed.Load() {
		return closedRow{}
	}
	return t.Tx.QueryRow(ctx, sql, args...)
}

type closedRow struct{}

func (closedRow) Scan(...any) error { return pgx.ErrTxClosed }

type closedBatch struct{}

func (closedBatch) Exec() (pgconn.CommandTag, error) { return pgconn.CommandTag{}, pgx.ErrTxClosed }
func (closedBatch) Query() (pgx.Rows, error)         { return nil, pgx.ErrTxClosed }
func (closedBatch) QueryRow() pgx.Row                { return closedRow{} }
func (closedBatch) Close() error                     { return pgx.ErrTxClosed }
func (closedBatch) Tx() pgx.Tx                       { return nil }
