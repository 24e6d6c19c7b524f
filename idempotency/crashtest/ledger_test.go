package crashtest_test

import (
	"context"
	"database/sql"
	"os"
	"strings"

	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
	"github.com/jackc/pgx/v5/pgxpool"
)

// transactional reports whether the ledger is in the database of the store.
func (a *arena) transactional() bool { return strings.HasSuffix(a.store, "tx") }

func (a *arena) readLedger() map[string][]string {
	switch a.store {
	case "pgtx":
		return a.readTable()
	case "sqlitetx":
		return a.readSQLite()
	}
	raw, err := os.ReadFile(a.ledger)
	if err != nil {
		a.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(raw)) {
		account, run, _ := strings.Cut(strings.TrimSpace(line), " ")
		all[account] = append(all[account], run)
	}
	return all
}

func (a *arena) pool() *pgxpool.Pool {
	a.Helper()
	pool, err := pgxpool.New(context.Background(), a.at)
	if err != nil {
		a.Fatal(err)
	}
	return pool
}

func (a *arena) migrate() {
	a.Helper()
	pool := a.pool()
	defer pool.Close()
	if err := pgstore.Migrate(a.Context(), pool); err != nil {
		a.Fatal(err)
	}
	if _, err := pool.Exec(a.Context(), createLedger); err != nil {
		a.Fatal(err)
	}
}

func (a *arena) readTable() map[string][]string {
	pool := a.pool()
	defer pool.Close()
	rows, err := pool.Query(a.Context(), "SELECT account, run FROM ledger")
	if err != nil {
		a.Fatal(err)
	}
	defer rows.Close()
	all := map[string][]string{}
	for rows.Next() {
		var account, run string
		if err := rows.Scan(&account, &run); err != nil {
			a.Fatal(err)
		}
		all[account] = append(all[account], run)
	}
	return all
}

const createLedger = "CREATE TABLE ledger (account text, run text)"

func (a *arena) sqlite() *sql.DB {
	a.Helper()
	db, err := sql.Open("sqlite", a.at)
	if err != nil {
		a.Fatal(err)
	}
	return db
}

func (a *arena) migrateSQLite() {
	a.Helper()
	db := a.sqlite()
	defer func() { _ = db.Close() }()
	if err := sqlitestore.Migrate(a.Context(), db); err != nil {
		a.Fatal(err)
	}
	if _, err := db.ExecContext(a.Context(), createLedger); err != nil {
		a.Fatal(err)
	}
}

func (a *arena) readSQLite() map[string][]string {
	a.Helper()
	db := a.sqlite()
	defer func() { _ = db.Close() }()
	rows, err := db.QueryContext(context.WithoutCancel(a.Context()), "SELECT account, run FROM ledger")
	if err != nil {
		a.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	all := map[string][]string{}
	for rows.Next() {
		var account, run string
		if err := rows.Scan(&account, &run); err != nil {
			a.Fatal(err)
		}
		all[account] = append(all[account], run)
	}
	if err := rows.Err(); err != nil {
		a.Fatal(err)
	}
	return all
}
