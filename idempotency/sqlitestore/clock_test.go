package sqlitestore_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
)

// Two stores share the clock of their machine, which the test sets.
func TestClockThatIsSetBackShortensNoLeaseOrRetention(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	var clock atomic.Int64
	var stores [2]*sqlitestore.Store
	for i := range stores {
		stores[i] = newStore(t, open(t, path), sqlitestore.WithExpiry(0))
		stores[i].SetClock(func() time.Duration { return time.Duration(clock.Load()) })
	}
	const start = int64(24 * time.Hour)
	at := func(d time.Duration) { clock.Store(start + int64(d)) }
	know := func(key string, want idempotency.State) {
		t.Helper()
		for i, s := range stores {
			if b, err := s.Look(t.Context(), claimOf(key)); err != nil || b.State != want {
				t.Errorf("%s at store %d: %v, %v, want %v", key, i, b.State, err, want)
			}
		}
	}
	begin := func(s *sqlitestore.Store, key string) idempotency.Lease {
		t.Helper()
		claim := claimOf(key) // its lease is a minute
		b, err := s.Begin(t.Context(), claim)
		if err != nil || b.State != idempotency.Run {
			t.Fatal(b.State, err)
		}
		return idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: b.Fence}
	}
	at(0)
	before := begin(stores[0], "before")
	at(-time.Hour)
	begin(stores[1], "set back") // at the file's time, which is the later
	know("before", idempotency.Join)
	know("set back", idempotency.Join)
	if err := stores[1].Complete(t.Context(), before, nil, time.Minute); err != nil {
		t.Error(err)
	}
	at(59 * time.Second) // the clock has caught up
	know("before", idempotency.Replay)
	know("set back", idempotency.Join)
	at(61 * time.Second)
	know("before", idempotency.Absent)
	know("set back", idempotency.Absent)
	if n, err := stores[0].Expire(t.Context()); err != nil || n != 1 {
		t.Errorf("deleted %d, %v, want the outcome alone", n, err)
	}
	at(0) // what has run out does not come back
	know("set back", idempotency.Absent)
	if again := begin(stores[1], "before"); again.Fence <= before.Fence {
		t.Errorf("fence %d after %d", again.Fence, before.Fence)
	}
}
