package pgstore_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency/pgstore"
)

// With the SQL of Migrations and Grants, a store works under a role that owns nothing.
// Down leaves only the table of versions.
func TestMigrationsAndGrantsAreEnoughForAStore(t *testing.T) {
	t.Parallel()
	server, owner := newDatabase(t)
	exec := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	for _, opts := range [][]pgstore.Option{nil, {pgstore.WithSchema("bank")}} {
		exec("CREATE SCHEMA IF NOT EXISTS bank")
		list, err := pgstore.Migrations(opts...)
		if err != nil || len(list) == 0 {
			t.Fatal(list, err)
		}
		for _, m := range list {
			exec(m.Up)
		}
		if err := pgstore.Migrate(t.Context(), owner, opts...); err != nil {
			t.Errorf("migrating what is migrated: %v", err)
		}
		exec("CREATE ROLE shop LOGIN")
		role := newPool(t, strings.Replace(server.URL(), "postgres@", "shop@", 1))
		store, err := pgstore.New(role, append(opts, pgstore.WithTransactions())...)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if err := store.Check(t.Context()); err == nil {
			t.Error("a role without rights passes")
		}
		grants, err := pgstore.Grants("shop", opts...)
		if err != nil {
			t.Fatal(err)
		}
		// Each of the rights is needed, and all together are enough.
		for grant := range strings.SplitSeq(strings.TrimSpace(grants), "\n") {
			exec(grants)
			revoke := strings.Replace(strings.Replace(grant, "GRANT", "REVOKE", 1), " TO ", " FROM ", 1)
			if strings.Contains(grant, "EXECUTE") { // as PUBLIC has it, and it is not needed by a new write
				continue
			}
			exec(revoke)
			if err := store.Check(t.Context()); err == nil {
				t.Errorf("a role passes without %s", grant)
			}
		}
		exec(grants)
		if err := store.Check(t.Context()); err != nil {
			t.Error(err)
		}
		store.Close()
		exec("DROP OWNED BY shop")
		exec("DROP ROLE shop")
		for i := range list {
			exec(list[len(list)-1-i].Down)
		}
		var tables int
		if err := owner.QueryRow(t.Context(), "SELECT count(*) FROM pg_class WHERE relname LIKE 'hopbound%' AND relname NOT LIKE '%version%'").Scan(&tables); err != nil || tables != 0 {
			t.Errorf("%d tables, sequences and indexes are left, %v", tables, err)
		}
	}
	if _, err := pgstore.Migrations(pgstore.WithSchema("")); err == nil {
		t.Error("an invalid option was taken")
	}
}

// syncBuffer is a buffer for concurrent use.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A purge that fails is counted and logged with its cause.
func TestFailedPurgeIsCountedAndLogged(t *testing.T) {
	t.Parallel()
	_, pool := newDatabase(t)
	if err := pgstore.Migrate(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	s, err := pgstore.New(pool, pgstore.WithExpiry(10*time.Millisecond), pgstore.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := pool.Exec(t.Context(), "ALTER TABLE hopbound_idempotency RENAME TO elsewhere"); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); s.Stats().PurgeFailures == 0 || !strings.Contains(log.String(), "does not exist"); {
		if time.Since(start) > time.Minute {
			t.Fatal(errors.New("no failure after a minute"), log.String())
		}
		time.Sleep(5 * time.Millisecond)
	}
}
