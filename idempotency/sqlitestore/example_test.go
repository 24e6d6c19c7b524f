package sqlitestore_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	_ "modernc.org/sqlite"
)

// A server that stores outcomes in the SQLite file of its data, and runs each write in one
// transaction with its outcome.
func Example() {
	dir, err := os.MkdirTemp("", "bank")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	ctx := context.Background()
	db, err := sql.Open("sqlite", filepath.Join(dir, "bank.db")+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(100)")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	if err := sqlitestore.Migrate(ctx, db); err != nil {
		fmt.Println(err)
		return
	}
	store, err := sqlitestore.New(db, sqlitestore.WithTransactions())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	fmt.Println(store.Check(ctx))
	_, err = interceptors.NewServer(interceptors.WithIdempotency(store, idempotency.RequireKey()))
	fmt.Println(err)
	// Output:
	// <nil>
	// <nil>
}

// debit takes money from an account in the transaction of the call: the money is taken once for
// each key, and the outcome is stored in the same transaction.
func debit(ctx context.Context, account string, cents int64) error {
	tx, ok := sqlitestore.Tx(ctx)
	if !ok {
		return errors.New("the call has no transaction")
	}
	result, err := tx.ExecContext(ctx, "UPDATE accounts SET cents = cents - ?2 WHERE name = ?1 AND cents >= ?2", account, cents)
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		err = status.Error(codes.FailedPrecondition, "there is not enough money") // is kept, too
	}
	return err
}

// A handler writes with the transaction that it gets from its context.
func ExampleTx() { //nolint:testableexamples // a server calls it
	_ = debit // is called by a handler
}
