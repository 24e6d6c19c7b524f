package sqlitestore_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/hopbound/hopbound/idempotency/sqlitestore"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings are those that the package recommends, but for synchronous, which no test needs.
const settings = "?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)&_pragma=busy_timeout(100)"

// newPath returns the path of a file that no other test uses.
func newPath(t testing.TB) string {
	t.Helper()
	return filepath.Join(t.TempDir(), "db")
}

// open opens a file until the test ends.
func open(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path+settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// newStore returns a store in a migrated database.
func newStore(t testing.TB, db *sql.DB, opts ...sqlitestore.Option) *sqlitestore.Store {
	t.Helper()
	if err := sqlitestore.Migrate(t.Context(), db, opts...); err != nil {
		t.Fatal(err)
	}
	s, err := sqlitestore.New(db, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
