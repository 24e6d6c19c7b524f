// Package sqlitestore keeps the records of writes in a file of SQLite 3.37 or later, for a service
// that runs on one machine and has its data in SQLite.
//
//	db, err := sql.Open("sqlite", "bank.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(100)")
//	err = sqlitestore.Migrate(ctx, db)
//	store, err := sqlitestore.New(db, sqlitestore.WithTransactions())
//	defer store.Close()
//	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
//
// The package imports no driver. It works with any SQLite driver for database/sql whose
// connections have PrepareContext and ExecContext, such as modernc.org/sqlite and
// github.com/mattn/go-sqlite3.
//
// # Transactions
//
// With [WithTransactions], a handler runs in a transaction, which it gets from [Tx]. What the
// handler writes in this transaction and the outcome of its call are committed together or not at
// all. If a failure is stored as an outcome, the outcome is committed without the handler's writes.
// What a handler does in other services or files is not part of the transaction.
//
// SQLite has one writer at a time. A handler in a transaction holds the write lock of the file from
// the claim to the commit, whether it writes or not. Therefore:
//
//   - Handlers in transactions run one after another, in all processes together. Keep them short,
//     and make calls to slow services elsewhere.
//   - All other writers of the file wait: those of the application, and the steps of the store.
//   - A handler must not wait for another write to the same file, such as a write with the
//     application's pool or a call of another keyed method that the same file serves. The two would
//     wait for each other until a deadline ends one of them.
//
// Calls that wait for the write lock hold no connection while a call of the same process has the
// lock. While another process has it, one call of each waiting process holds a connection and polls.
// The wait ends with the call's deadline, or with [idempotency.MaxWait] if that is shorter. These
// bounds also apply while the lock is held for another key, because the store cannot see for which
// key another process holds it. Calls whose outcome is stored are answered without the lock.
//
// The lock is taken with BEGIN IMMEDIATE, so that transactions cannot conflict: SQLITE_BUSY_SNAPSHOT
// and [idempotency.ErrConflict] do not occur.
//
// SQLite itself rolls a handler's transaction back after some errors (INSERT OR ROLLBACK, a full
// disk), and if the call is cancelled while a statement writes. The handler's further statements
// then fail, and nothing is committed. If a handler ends the transaction with COMMIT in SQL, its
// claim is committed too: the call fails with [idempotency.ErrOutcomeUnknown], and
// [idempotency.TakenOver] is true in the next run.
//
// # Leases
//
// Without transactions, each step of the store is a short transaction, and a handler holds no lock
// while it runs. A handler may run again if its server dies or is paused for longer than the lease;
// see [idempotency.TakenOver]. If a handler writes to the file, keep its transactions shorter than
// the lease, because renewals wait for them.
//
// Steps use connections of the pool. If handlers may hold all of its connections, give the store a
// pool of its own for the same file.
//
// # Settings of the file
//
//   - journal_mode WAL, so that readers and writers do not wait for each other. [Store.Check] warns
//     of any other mode.
//   - synchronous FULL, so that a stored outcome survives a crash of the machine. With NORMAL or
//     OFF the last outcomes may be lost, and with them what the handler wrote in the same
//     transaction. Check warns of this too. A crash of the process loses nothing.
//   - busy_timeout is not needed. If the driver cannot interrupt SQLite's wait, a step may outlive
//     its context by the busy_timeout; with such a driver, set it to a second or less.
//
// Keep the file on a local disk. SQLite's locks do not work on most network file systems.
//
// # Time
//
// All processes that use the file share the clock of their machine. The file contains the time of
// the last write. The store's time is the later of the two, so that it never goes back. If the clock
// is set back, time stands still until the clock has caught up: leases and retentions last longer,
// never shorter. If the clock is set forward, leases and retentions end early by as much.
//
// # What may be added
//
// The package uses database/sql and package idempotency. It imports no driver, and makes and serves
// no calls.
package sqlitestore
