package sqlitestore_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
)

// quiet logs nothing.
var quiet = sqlitestore.WithLogger(slog.New(slog.DiscardHandler))

func TestCheckReportsWhetherTheFileIsMigrated(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	s, err := sqlitestore.New(open(t, path), sqlitestore.WithTransactions(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Check(t.Context()); !errors.Is(err, sqlitestore.ErrNotMigrated) {
		t.Errorf("got %v", err)
	}
	var wg sync.WaitGroup
	for range 5 { // processes that start together
		wg.Go(func() {
			if err := sqlitestore.Migrate(t.Context(), open(t, path)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
	for r, err := range s.Records(t.Context()) {
		t.Errorf("Check has left %+v, %v", r, err)
	}
}

func TestCheckWarnsOfSettingsThatLoseOutcomesOrWait(t *testing.T) {
	t.Parallel()
	for pragmas, warnings := range map[string][]string{
		"_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)":     nil,
		"_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)":   {"synchronous"},
		"_pragma=journal_mode(DELETE)&_pragma=synchronous(OFF)":   {"journal_mode", "synchronous"},
		"_pragma=journal_mode(TRUNCATE)&_pragma=synchronous(2)":   {"journal_mode"},
		"_pragma=journal_mode(PERSIST)&_pragma=synchronous(FULL)": {"journal_mode"},
	} {
		db, err := sql.Open("sqlite", newPath(t)+"?"+pragmas)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		var log bytes.Buffer
		s := newStore(t, db, sqlitestore.WithTransactions(), sqlitestore.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if err := s.Check(t.Context()); err != nil {
			t.Errorf("%s: %v", pragmas, err)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != len(warnings) {
			t.Errorf("%s: %d warnings: %s", pragmas, n, log.String())
		}
		for _, w := range warnings {
			if !strings.Contains(log.String(), w) {
				t.Errorf("%s: no warning of %s: %s", pragmas, w, log.String())
			}
		}
	}
}

func TestCheckRefusesADatabaseThatIsReadOnlyOrInMemory(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	newStore(t, open(t, path))
	for dsn, text := range map[string]string{
		path + settings + "&_pragma=query_only(1)": "readonly",
		":memory:": "in memory",
		"file:" + t.Name() + "?mode=memory&cache=shared": "in memory",
		"file:/nonesuch/db?_pragma=journal_mode(WAL)":    "unable to open",
	} {
		db, err := sql.Open("sqlite", dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		s, err := sqlitestore.New(db, quiet)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want %q", dsn, err, text)
		}
	}
}

func TestInvalidOptionsAreReportedTogether(t *testing.T) {
	t.Parallel()
	_, err := sqlitestore.New(nil, nil, sqlitestore.WithExpiry(-1))
	for _, text := range []string{"option 1 is nil", "WithExpiry(-1ns)", "the database is nil"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q in it", err, text)
		}
	}
	if sqlitestore.Migrate(t.Context(), nil) == nil || sqlitestore.Migrate(t.Context(), nil, nil) == nil {
		t.Error("Migrate has taken what New refuses")
	}
	s := newStore(t, open(t, newPath(t)))
	if s.Kind() != "sqlite" || s.Transactional() {
		t.Errorf("kind %s, transactional %v", s.Kind(), s.Transactional())
	}
	if _, err := s.Transact(t.Context(), idempotency.Claim{Lease: 1}, func(context.Context, idempotency.BeginResult) idempotency.Verdict { return commit }); err == nil {
		t.Error("a claim without an owner was taken")
	}
}
