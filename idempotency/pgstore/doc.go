// Package pgstore keeps the records of writes in PostgreSQL, 14 or later.
//
//	pool, err := pgxpool.New(ctx, url)
//	err = pgstore.Migrate(ctx, pool)
//	store, err := pgstore.New(pool, pgstore.WithTransactions())
//	defer store.Close()
//	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
//
// # Transactions
//
// With [WithTransactions] a handler runs in a transaction of the pool's, which it
// gets by [Tx]. What it writes with it, and the outcome of its call, are
// committed together or not at all: the effect in this database happens exactly
// once, whatever crashes when. A failure that is kept as an outcome is committed
// without the handler's writes. Duplicates wait until the transaction has ended,
// on an advisory lock, or within the same process without a connection.
//
// A transaction takes the lock of its record, pg_advisory_xact_lock of the first
// eight bytes of the record's ID and of the table, for others to wait for, and
// writes the record with its outcome when the handler has returned; that it is the
// only one is seen to by the unique index. Advisory locks of the application's own
// in the same database do no harm, but that two which are the same by chance wait
// for each other.
//
// A handler leaves the role and the search_path of the transaction as they are: if
// the records cannot be written with them any more, or are other tables, nothing
// is committed.
//
// What a handler does elsewhere, in other services or databases, is not part of
// the transaction; calls to other services carry keys of their own. A handler
// holds a connection while it runs, so that the pool bounds how many do.
//
// # Leases
//
// Without it, a record is claimed under a lease, which is extended while the
// handler runs. A handler may run again if its server dies or loses touch with
// the database for longer than the lease; see [idempotency.TakenOver].
// Whoever waits looks at the record now and then, at a pace that grows with the
// wait, and is woken by NOTIFY where a connection can LISTEN.
//
// # What the database must be
//
// Times are those of the database's clock. Transactions are READ COMMITTED,
// whatever the default is. A commit is durable if PostgreSQL is set to make it
// so: with synchronous_commit off, or after a failover to a standby that is
// behind, the last outcomes are gone, and so are the writes of their handlers.
//
// # PgBouncer
//
// Everything works behind PgBouncer in transaction pooling, but for two things.
// Notifications do not come through, which costs those who wait some
// milliseconds; leave LISTEN out with [WithoutListen]. And PgBouncer before 1.21
// does not know prepared statements: give the pool
// pgx.QueryExecModeExec as its default mode there.
//
// # What may enter
//
// The package knows PostgreSQL by pgx and the records by package idempotency,
// and nothing of gRPC.
package pgstore
