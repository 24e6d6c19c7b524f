package sqlitestore_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
)

func TestExpiredRecordsAreDeletedAndCounted(t *testing.T) {
	t.Parallel()
	db := open(t, newPath(t))
	store := newStore(t, db, sqlitestore.WithExpiry(0))
	if _, err := store.Begin(t.Context(), claimOf("live")); err != nil {
		t.Fatal(err)
	}
	const fill = `INSERT INTO hopbound_idempotency
SELECT unhex(format('%064x', i)), 'o', i, 1, 0, 1, 0, 0, 1, '', '', '', zeroblob(32), NULL
FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1234) SELECT i FROM n)`
	if _, err := db.ExecContext(t.Context(), fill); err != nil {
		t.Fatal(err)
	}
	if n, err := store.Expire(t.Context()); err != nil || n != 1234 {
		t.Errorf("deleted %d, %v", n, err)
	}
	if n := store.Stats().Purged; n != 1234 {
		t.Errorf("counted %d", n)
	}
	if b, err := store.Look(t.Context(), claimOf("live")); err != nil || b.State != idempotency.Join {
		t.Errorf("the live record: %v, %v", b.State, err)
	}
}

// notice reports each line of a log.
type notice chan string

func (n notice) Write(line []byte) (int, error) {
	select {
	case n <- string(line):
	default:
	}
	return len(line), nil
}

func TestFailedPurgeIsCountedAndLogged(t *testing.T) {
	t.Parallel()
	lines := make(notice, 1)
	s, err := sqlitestore.New(open(t, newPath(t)), sqlitestore.WithExpiry(time.Millisecond), // the file is not migrated
		sqlitestore.WithLogger(slog.New(slog.NewTextHandler(lines, nil))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	t.Log(<-lines)
	if s.Stats().PurgeFailures == 0 {
		t.Error("the failure was not counted")
	}
}
