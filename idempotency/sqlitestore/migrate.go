package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// migrations are the changes of the tables, in order. The version of a file is the number of
// migrations that were made in it.
var migrations = []string{ //nolint:gochecknoglobals // nothing changes it
	`CREATE TABLE hopbound_idempotency_state (
	version INTEGER NOT NULL,
	fence   INTEGER NOT NULL, -- the last that was drawn; it outlives the records
	time    INTEGER NOT NULL  -- of the last write
) STRICT;
INSERT INTO hopbound_idempotency_state VALUES (0, 0, 0);
CREATE TABLE hopbound_idempotency (
	id        BLOB PRIMARY KEY,
	owner     TEXT NOT NULL,
	fence     INTEGER NOT NULL,
	done      INTEGER NOT NULL,
	effect    INTEGER NOT NULL,
	until     INTEGER NOT NULL,
	keep      INTEGER NOT NULL,
	created   INTEGER NOT NULL,
	attempts  INTEGER NOT NULL,
	method    TEXT NOT NULL,
	key_hash  TEXT NOT NULL,
	fp_schema TEXT NOT NULL,
	fp_sum    BLOB NOT NULL,
	stored    BLOB
) STRICT;
CREATE INDEX hopbound_idempotency_due ON hopbound_idempotency (until + keep);`,
}

// ErrNotMigrated is returned by [Store.Check] for a file whose tables are missing or older than this
// version needs.
var ErrNotMigrated = errors.New("sqlitestore: the database is not migrated")

// Migrate creates the tables hopbound_idempotency and hopbound_idempotency_state, or brings them
// to this version, in one transaction. Any number of processes may call it at the same time. It
// takes the options of [New], and returns an error if one is invalid.
func Migrate(ctx context.Context, db *sql.DB, opts ...Option) error {
	if _, err := newSettings(opts); err != nil {
		return err
	}
	if db == nil {
		return errors.New("sqlitestore: the database is nil")
	}
	f := newFile(db)
	t, err := f.lock(ctx)
	if err != nil {
		return wrap("migrate", err)
	}
	if err := t.migrate(ctx); err != nil {
		t.rollback()
		return wrap("migrate", err)
	}
	_, err = t.commit(ctx)
	return wrap("migrate", err)
}

func (t *transaction) migrate(ctx context.Context) error {
	version, err := readVersion(ctx, t.conn)
	if err != nil || version >= len(migrations) {
		return err
	}
	for _, m := range migrations[version:] {
		if err := t.exec(ctx, m); err != nil {
			return err
		}
	}
	return t.exec(ctx, "UPDATE hopbound_idempotency_state SET version = ?", len(migrations))
}

// readVersion returns the version of the tables, which is 0 if there are none.
func readVersion(ctx context.Context, q rowQuerier) (version int, err error) {
	err = q.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name = 'hopbound_idempotency_state'").Scan(&version)
	if err != nil || version == 0 {
		return version, err
	}
	err = q.QueryRowContext(ctx, "SELECT version FROM hopbound_idempotency_state").Scan(&version)
	return version, err
}

// Check returns an error if the database has no file, if it is not migrated to this version (the
// error wraps [ErrNotMigrated]), or if a step of the store fails: Check writes a record and deletes
// it again. It logs a warning if a crash of the machine may lose outcomes, or if readers and writers
// wait for each other. Call Check when a server starts.
func (s *Store) Check(ctx context.Context) error {
	var version int
	err := whileBusy(ctx, func() error {
		if err := s.checkSettings(ctx); err != nil {
			return err
		}
		var err error
		version, err = readVersion(ctx, s.file.db)
		return err
	})
	switch {
	case err != nil:
		return wrap("check", err)
	case version < len(migrations):
		return fmt.Errorf("%w: it has version %d, and needs version %d", ErrNotMigrated, version, len(migrations))
	}
	if err := idempotency.Probe(ctx, s); err != nil {
		return wrap("check", err)
	}
	if s.transactions {
		return wrap("check", s.probeTransaction(ctx))
	}
	return nil
}

// checkSettings looks at the settings of a connection.
func (s *Store) checkSettings(ctx context.Context) error {
	var (
		path, journal string
		synchronous   int
	)
	for query, value := range map[string]any{
		"SELECT file FROM pragma_database_list WHERE name = 'main'": &path,
		"PRAGMA journal_mode": &journal,
		"PRAGMA synchronous":  &synchronous,
	} {
		if err := s.file.db.QueryRowContext(ctx, query).Scan(value); err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
	}
	if path == "" {
		return errors.New("the database is in memory, where each connection of the pool has its own")
	}
	if !strings.EqualFold(journal, "wal") {
		s.log().WarnContext(ctx, "hopbound: readers and writers of the SQLite file wait for each other; set PRAGMA journal_mode = WAL", "journal_mode", journal)
	}
	const full = 2
	if synchronous < full {
		s.log().WarnContext(ctx, "hopbound: a crash of the machine may lose the last idempotency records; set PRAGMA synchronous = FULL", "synchronous", synchronous)
	}
	return nil
}

// probeTransaction stores an outcome in a transaction, and deletes its record.
func (s *Store) probeTransaction(ctx context.Context) error {
	claim := idempotency.Claim{ID: idempotency.NewID("", "probe", idempotency.NewKey()), Owner: "probe", Lease: time.Minute, Retention: time.Minute}
	handedOut := false
	_, err := s.Transact(ctx, claim, func(ctx context.Context, _ idempotency.BeginResult) idempotency.Verdict {
		_, handedOut = Tx(ctx)
		return idempotency.Verdict{Keep: true, Commit: true, Retention: time.Minute}
	})
	if err != nil {
		return err
	}
	r, err := s.Find(ctx, claim.ID)
	if err != nil || r == nil || !handedOut {
		return errors.Join(errors.New("the record that a transaction has committed is missing"), err)
	}
	return s.Forget(ctx, r)
}
