package sqlitestore_test

import (
	"database/sql"
	"errors"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
)

// set writes columns of the record of a key.
func set(t *testing.T, db *sql.DB, key, columns string, args ...any) {
	t.Helper()
	id := claimOf(key).ID
	if _, err := db.ExecContext(t.Context(), "UPDATE hopbound_idempotency SET "+columns+" WHERE id = ?", append(args, id[:])...); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedRecordIsCorruptAndNotRunAgain(t *testing.T) {
	t.Parallel()
	for name, columns := range map[string]string{
		"a short fingerprint": "fp_sum = x'0102'",
		"a long fingerprint":  "fp_sum = zeroblob(33)",
		"no fingerprint":      "fp_sum = x''",
		"an unknown state":    "done = 2",
		"an unknown effect":   "effect = -1",
		"no fence":            "fence = 0",
		"a negative keep":     "keep = -1",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, newPath(t))
			store := newStore(t, db, sqlitestore.WithTransactions())
			claim := claimOf("k")
			result, err := store.Begin(t.Context(), claim)
			if err != nil {
				t.Fatal(err)
			}
			set(t, db, "k", columns)
			lease := idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: result.Fence}
			_, beginErr := store.Begin(t.Context(), claim)
			_, lookErr := store.Look(t.Context(), claim)
			_, transactErr := store.Transact(t.Context(), claim, never(t))
			_, findErr := store.Find(t.Context(), claim.ID)
			var listErr error
			for _, err := range store.Records(t.Context()) {
				listErr = err
			}
			for step, err := range map[string]error{
				"begin": beginErr, "look": lookErr, "transact": transactErr, "find": findErr, "list": listErr,
				"wait":     store.Wait(t.Context(), claim.ID),
				"extend":   store.Extend(t.Context(), lease, time.Minute),
				"save":     store.Save(t.Context(), lease, nil),
				"complete": store.Complete(t.Context(), lease, nil, time.Minute),
				"release":  store.Release(t.Context(), lease, true, time.Minute),
			} {
				if !errors.Is(err, idempotency.ErrCorrupt) {
					t.Errorf("%s: %v", step, err)
				}
			}
		})
	}
}

func TestRecordWithAShortIDIsCorrupt(t *testing.T) {
	t.Parallel()
	db := open(t, newPath(t))
	store := newStore(t, db)
	if _, err := store.Begin(t.Context(), claimOf("k")); err != nil {
		t.Fatal(err)
	}
	set(t, db, "k", "id = x'01'")
	n := 0
	for _, err := range store.Records(t.Context()) {
		if n++; !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("got %v", err)
		}
	}
	if n != 1 {
		t.Errorf("listed %d", n)
	}
}

// Whatever a row contains, each step returns a result or ErrCorrupt.
func FuzzRow(f *testing.F) {
	sum := make([]byte, 32)
	f.Add("owner", int64(1), int64(0), int64(0), int64(1)<<60, int64(1), sum, []byte(nil))
	f.Add("", int64(1), int64(0), int64(1), int64(0), int64(1)<<60, sum, []byte("checkpoint"))
	f.Add("owner", int64(1), int64(1), int64(0), int64(1)<<60, int64(0), sum, []byte("outcome"))
	f.Add("owner", int64(-1), int64(2), int64(2), int64(-1), int64(-1), []byte{1}, []byte(nil))
	db := open(f, newPath(f))
	store := newStore(f, db, sqlitestore.WithExpiry(0))
	f.Fuzz(func(t *testing.T, owner string, fence, done, effect, until, keep int64, sum, stored []byte) {
		claim := claimOf("k")
		if sum == nil {
			sum = []byte{}
		}
		const query = "INSERT OR REPLACE INTO hopbound_idempotency VALUES (?, ?, ?, ?, ?, ?, ?, 0, 1, '', '', '', ?, ?)"
		if _, err := db.ExecContext(t.Context(), query, claim.ID[:], owner, fence, done, effect, until, keep, sum, stored); err != nil {
			t.Fatal(err)
		}
		b, err := store.Look(t.Context(), claim)
		if err == nil && b.State == 0 || err != nil && !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("look: %v, %v", b.State, err)
		}
		b, err = store.Begin(t.Context(), claim)
		if err == nil && b.State == 0 || err != nil && !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("begin: %v, %v", b.State, err)
		}
	})
}
