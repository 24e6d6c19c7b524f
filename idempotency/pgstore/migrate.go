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

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrationLock keeps others from migrating at the same time.
const migrationLock = 0x686f70626f756e64 // "hopbound"

// leastVersion is that of the oldest PostgreSQL that is supported.
const leastVersion = 140000

// ErrNotMigrated is returned by [Store.Check] for a database whose tables are not
// those of this version.
var ErrNotMigrated = errors.New("pgstore: the database is not migrated")

// migration is one step of what the tables have been through.
type migration struct {
	version int
	name    string
	sql     string
}

// all returns the migrations in order.
func all() ([]migration, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql") // in order
	if err != nil {
		return nil, err
	}
	list := make([]migration, 0, len(names))
	for _, name := range names {
		raw, err := migrations.ReadFile(name)
		if err != nil {
			return nil, err
		}
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("migration %s: %w", name, err)
		}
		list = append(list, migration{version, path.Base(name), string(raw)})
	}
	return list, nil
}

// Migrate makes the tables, or brings them to this version: each migration that
// is not in the table hopbound_idempotency_version yet is run in a transaction of
// its own. Any number of processes may do it at the same time. It needs the right
// to create tables; the store itself needs to read, write and delete in them, and
// to use the sequence.
func Migrate(ctx context.Context, pool *pgxpool.Pool, opts ...Option) error {
	s, err := newSettings(opts)
	if err != nil {
		return err
	}
	list, err := all()
	if err != nil {
		return err
	}
	for _, m := range list {
		err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error { return s.migrate(ctx, tx, m) })
		if err != nil {
			return fmt.Errorf("pgstore: migration %s: %w", m.name, err)
		}
	}
	return nil
}

func (s *settings) migrate(ctx context.Context, tx pgx.Tx, m migration) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(migrationLock)); err != nil {
		return err
	}
	table := s.prefix + "hopbound_idempotency_version"
	if _, err := tx.Exec(ctx, "CREATE TABLE IF NOT EXISTS "+table+" (version integer PRIMARY KEY, migrated timestamptz NOT NULL DEFAULT clock_timestamp())"); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, "INSERT INTO "+table+" (version) VALUES ($1) ON CONFLICT DO NOTHING", m.version)
	if err != nil || tag.RowsAffected() == 0 {
		return err
	}
	_, err = tx.Exec(ctx, strings.ReplaceAll(m.sql, "{schema}", s.prefix))
	return err
}

// Check returns an error if the database is too old, or is not migrated to this
// version, which wraps [ErrNotMigrated]. Call it when a server starts.
func (s *Store) Check(ctx context.Context) error {
	var version int
	if err := s.pool.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return fmt.Errorf("pgstore: %w", err)
	}
	if version < leastVersion {
		return fmt.Errorf("pgstore: PostgreSQL %d is older than 14", version/10000)
	}
	list, err := all()
	if err != nil {
		return err
	}
	want := list[len(list)-1].version
	var got int
	err = s.pool.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM "+s.prefix+"hopbound_idempotency_version").Scan(&got)
	if isMissing(err) {
		err = nil // of which there are none
	}
	switch {
	case err != nil:
		return fmt.Errorf("pgstore: %w", err)
	case got < want:
		return fmt.Errorf("%w: it is at version %d, and needs %d", ErrNotMigrated, got, want)
	default:
		return nil
	}
}
