// Package pgstore keeps the records of writes in PostgreSQL 14 or later.
//
//	pool, err := pgxpool.New(ctx, url)
//	err = pgstore.Migrate(ctx, pool)
//	store, err := pgstore.New(pool, pgstore.WithTransactions())
//	defer store.Close()
//	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
//
// # Transactions
//
// With [WithTransactions], a handler runs in a transaction of the pool, which [Tx] returns. What the
// handler writes in this transaction and the outcome of its call are committed together or not at all:
// the effect in this database happens exactly once, whatever crashes. If a failure is stored as an
// outcome, the outcome is committed without the handler's writes. Duplicates wait until the transaction
// has ended. In the process of the transaction, waiting duplicates hold no connection. In each other
// process, they share one connection, which waits for an advisory lock.
//
// A transaction takes the lock of its record: pg_advisory_xact_lock with a number made of the first
// eight bytes of the record's ID and of the table. When the handler has returned, the transaction
// inserts the record with the outcome, and a unique index ensures that there is only one such record. If
// the application takes an advisory lock with the same number, the two only wait for each other.
//
// A handler must not change the role or the search_path of the transaction. If it does so and the store
// can no longer write its record, or would write the record to another table, nothing is committed.
//
// What a handler does elsewhere, in other services or databases, is not part of
// the transaction; calls to other services carry child keys. A handler holds a
// connection while it runs, so the pool bounds how many run at once.
//
// A handler in a transaction must not wait for another keyed call of the same process and store: if as
// many handlers wait in this way as the pool allows transactions, all of them wait until their
// deadlines.
//
// # Leases
//
// Without WithTransactions, a record is claimed under a lease, which is extended while the handler runs.
// A handler may run again if its server dies or cannot reach the database for longer than the lease; see
// [idempotency.TakenOver]. A call that waits for another run polls the record, at intervals that grow
// with the wait. If a connection of the store can LISTEN, a NOTIFY ends the wait sooner.
//
// # Settings of the database
//
// Times are those of the database's clock. Transactions are READ COMMITTED unless [WithIsolation] says
// otherwise, whatever the database's default is. A commit is as durable as PostgreSQL's settings make
// it: after a crash with synchronous_commit off, or a failover to a standby that is behind, the last
// outcomes are lost. With WithTransactions, so are the handlers' writes in the same transactions.
//
// # PgBouncer
//
// Everything works behind PgBouncer in transaction pooling, with two exceptions. Notifications do not
// arrive: turn LISTEN off with [WithoutListen]; a wait then ends up to about 300 ms late. PgBouncer
// before 1.21 does not support prepared statements: with such a version, set pgx.QueryExecModeExec as
// the pool's default mode.
//
// # What may be added
//
// The package uses pgx and package idempotency. It makes and serves no calls.
package pgstore
