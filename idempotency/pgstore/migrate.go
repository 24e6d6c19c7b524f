package pgstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrationLock is the advisory lock of a process that migrates.
const migrationLock = 0x686f70626f756e64 // "hopbound"

// minVersion is the oldest version of PostgreSQL that is supported.
const minVersion = 140000

// ErrNotMigrated is returned by [Store.Check] if the tables are missing or older than this version
// needs.
var ErrNotMigrated = errors.New("pgstore: the database is not migrated")

// Migration is one change of the store's tables, as SQL for goose, Flyway or a database administrator.
type Migration struct {
	Version int
	Name    string // such as "001_records"

	// Up makes the change and records it in the table hopbound_idempotency_version, which
	// [Store.Check] reads. Down reverses the change, and deletes all records.
	Up, Down string
}

// Migrations returns all migrations, in order, for the schema of [WithSchema] or else that of the
// session. Run each migration in a transaction of its own. Migrations returns an error if an option is
// invalid.
func Migrations(opts ...Option) ([]Migration, error) {
	s, err := newSettings(opts)
	if err != nil {
		return nil, err
	}
	return s.migrations()
}

func (s *settings) migrations() ([]Migration, error) {
	names, err := fs.Glob(migrations, "migrations/*.up.sql") // in order
	if err != nil {
		return nil, err
	}
	list := make([]Migration, 0, len(names))
	for _, name := range names {
		up, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		down, err := migrations.ReadFile(strings.TrimSuffix(name, "up.sql") + "down.sql")
		if err != nil {
			return nil, err
		}
		m := Migration{Name: strings.TrimSuffix(path.Base(name), ".up.sql")}
		number, _, _ := strings.Cut(m.Name, "_")
		if m.Version, err = strconv.Atoi(number); err != nil {
			return nil, fmt.Errorf("migration %s: %w", m.Name, err)
		}
		table := s.prefix + versionTable
		m.Up = fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (version integer PRIMARY KEY, migrated timestamptz NOT NULL DEFAULT clock_timestamp());\n\n%s\nINSERT INTO %s (version) VALUES (%d);\n",
			table, strings.ReplaceAll(string(up), "{schema}", s.prefix), table, m.Version)
		m.Down = fmt.Sprintf("%sDELETE FROM %s WHERE version = %d;\n", strings.ReplaceAll(string(down), "{schema}", s.prefix), table, m.Version)
		list = append(list, m)
	}
	return list, nil
}

const versionTable = "hopbound_idempotency_version"

// Grants returns the SQL that grants a role the privileges that a [Store] needs, and no others, if the
// tables belong to another role. It returns an error if an option is invalid.
func Grants(role string, opts ...Option) (string, error) {
	s, err := newSettings(opts)
	if err != nil {
		return "", err
	}
	to := pgx.Identifier{role}.Sanitize()
	table := s.prefix + "hopbound_idempotency"
	var b strings.Builder
	if s.prefix != "" {
		fmt.Fprintf(&b, "GRANT USAGE ON SCHEMA %s TO %s;\n", strings.TrimSuffix(s.prefix, "."), to)
	}
	fmt.Fprintf(&b, "GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %s;\n", table, to)
	fmt.Fprintf(&b, "GRANT USAGE ON SEQUENCE %s_fence TO %s;\n", table, to)
	fmt.Fprintf(&b, "GRANT EXECUTE ON FUNCTION %s_claim TO %s;\n", table, to)
	fmt.Fprintf(&b, "GRANT SELECT ON %s%s TO %s;\n", s.prefix, versionTable, to)
	return b.String(), nil
}

// Migrate creates the tables, or brings them to this version: it runs each migration that is not yet in
// the table hopbound_idempotency_version, in a transaction of its own. Any number of processes may call
// Migrate at the same time. It needs the privilege to create tables; [Grants] has the privileges that
// the store needs later. Migrate returns an error if an option is invalid.
func Migrate(ctx context.Context, pool *pgxpool.Pool, opts ...Option) error {
	s, err := newSettings(opts)
	if err != nil {
		return err
	}
	list, err := s.migrations()
	if err != nil {
		return err
	}
	for _, m := range list {
		err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error { return s.migrate(ctx, tx, m) })
		if err != nil {
			return fmt.Errorf("pgstore: migration %s: %w", m.Name, err)
		}
	}
	return nil
}

func (s *settings) migrate(ctx context.Context, tx pgx.Tx, m Migration) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
		return err
	}
	const savepoint = "hopbound_version"
	if _, err := tx.Exec(ctx, "SAVEPOINT "+savepoint); err != nil {
		return err
	}
	version, err := s.version(ctx, tx)
	if err != nil || version >= m.Version {
		return err
	}
	if _, err := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT "+savepoint); err != nil { // the table of versions may be missing
		return err
	}
	_, err = tx.Exec(ctx, m.Up)
	return err
}

// querier is a connection, a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// version returns the version of the tables, or 0 if there are none.
func (s *settings) version(ctx context.Context, q querier) (version int, err error) {
	err = q.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM "+s.prefix+versionTable).Scan(&version)
	if isMissing(err) {
		err = nil
	}
	return version, err
}

// Check returns an error if PostgreSQL is older than 14, if the database is not migrated to this
// version (the error wraps [ErrNotMigrated]), or if a step of the store fails: Check writes a record
// and deletes it again. Call Check when a server starts.
func (s *Store) Check(ctx context.Context) error {
	var server int
	if err := s.own.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&server); err != nil {
		return fmt.Errorf("pgstore: %w", err)
	}
	if server < minVersion {
		return fmt.Errorf("pgstore: PostgreSQL %d is older than 14", server/10000)
	}
	list, err := s.migrations()
	if err != nil {
		return err
	}
	got, err := s.version(ctx, s.own)
	switch want := list[len(list)-1].Version; {
	case err != nil:
		return fmt.Errorf("pgstore: %w", err)
	case got < want:
		return fmt.Errorf("%w: it has version %d, and needs version %d", ErrNotMigrated, got, want)
	}
	if err := idempotency.Probe(ctx, s); err != nil {
		return fmt.Errorf("pgstore: %w", err)
	}
	if s.transactions {
		return s.probeTransaction(ctx)
	}
	return nil
}

// probeTransaction stores an outcome in a transaction, and deletes its record.
func (s *Store) probeTransaction(ctx context.Context) error {
	claim := idempotency.Claim{ID: idempotency.NewID("", "probe", idempotency.NewKey()), Owner: "probe", Lease: time.Minute, Retention: time.Minute}
	_, err := s.Transact(ctx, claim, func(context.Context, idempotency.BeginResult) idempotency.Verdict {
		return idempotency.Verdict{Keep: true, Commit: true, Retention: time.Minute}
	})
	if err != nil {
		return err
	}
	r, err := s.Find(ctx, claim.ID)
	if err != nil || r == nil {
		return errors.Join(errors.New("pgstore: the record that a transaction has committed is missing"), err)
	}
	return s.Forget(ctx, r)
}
