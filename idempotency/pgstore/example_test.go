package pgstore_test

import (
	"context"
	"errors"
	"log"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A server that stores outcomes in PostgreSQL, and runs each write in one
// transaction with its outcome.
func Example() { //nolint:testableexamples // it needs a server
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, "postgres://bank@db/bank")
	if err != nil {
		log.Print(err)
		return
	}
	defer pool.Close()
	if err := pgstore.Migrate(ctx, pool); err != nil {
		log.Print(err)
		return
	}
	store, err := pgstore.New(pool, pgstore.WithTransactions())
	if err != nil {
		log.Print(err)
		return
	}
	defer store.Close()
	server, err := interceptors.NewServer(interceptors.WithIdempotency(store, idempotency.RequireKey()))
	if err != nil {
		log.Print(err)
		return
	}
	_ = server
}

// debit takes money from an account in the transaction of the call: the money is
// taken once for each key, and the outcome is stored in the same transaction.
func debit(ctx context.Context, account string, cents int64) error {
	tx, ok := pgstore.Tx(ctx)
	if !ok {
		return errors.New("the call has no transaction")
	}
	tag, err := tx.Exec(ctx, "UPDATE accounts SET cents = cents - $2 WHERE name = $1 AND cents >= $2", account, cents)
	if err != nil {
		return err
	}
	if tag.RowsAffected() == 0 {
		return status.Error(codes.FailedPrecondition, "there is not enough money") // is kept, too
	}
	return nil
}

// A handler writes with the transaction that it gets from its context.
func ExampleTx() { //nolint:testableexamples // it needs a server
	_ = debit // is called by a handler
}
