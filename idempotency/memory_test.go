package idempotency_test

import (
	"errors"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// A full store refuses new writes, and still takes the steps of those it has. Only the end
// of a retention makes room.
func TestFullMemoryRefusesOnlyNewWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := idempotency.NewMemory(idempotency.MemoryCapacity(640))
		claim := func(i int) (idempotency.BeginResult, idempotency.Lease, error) {
			id := idempotency.NewID("tenant", "/m", idempotency.Key(strconv.Itoa(i)))
			b, err := m.Begin(t.Context(), idempotency.Claim{ID: id, Owner: "a", Lease: time.Minute})
			return b, idempotency.Lease{ID: id, Owner: "a", Fence: b.Fence}, err
		}
		var kept []idempotency.Lease
		refused := 0
		for i := range 2000 {
			switch _, l, err := claim(i); {
			case err == nil:
				kept = append(kept, l)
			case errors.Is(err, idempotency.ErrFull):
				refused++
			default:
				t.Fatal(err)
			}
		}
		if len(kept) > 640 || len(kept) < 500 || m.Stats().Records != int64(len(kept)) {
			t.Fatalf("%d kept and %d refused, and there are %d", len(kept), refused, m.Stats().Records)
		}
		for _, l := range kept {
			if err := m.Complete(t.Context(), l, []byte("outcome"), time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(59 * time.Minute)
		if _, _, err := claim(5000); !errors.Is(err, idempotency.ErrFull) {
			t.Errorf("while all retentions last: %v, want that it is full", err)
		}
		time.Sleep(2 * time.Minute)
		made := 0
		for i := range 640 {
			if _, _, err := claim(10_000 + i); err == nil {
				made++
			}
		}
		if made < 500 {
			t.Errorf("%d claims after all retentions have ended", made)
		}
	})
}

// A claim that is released without an effect leaves no record.
func TestMemoryDropsReleasedRecordsWithoutAnEffect(t *testing.T) {
	t.Parallel()
	m := idempotency.NewMemory()
	for i := range 1000 {
		id := idempotency.NewID("tenant", "/m", idempotency.Key(strconv.Itoa(i)))
		b, err := m.Begin(t.Context(), idempotency.Claim{ID: id, Owner: "a", Lease: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Release(t.Context(), idempotency.Lease{ID: id, Owner: "a", Fence: b.Fence}, false, 0); err != nil {
			t.Fatal(err)
		}
	}
	if m.Stats().Records != 0 {
		t.Errorf("%d records are left", m.Stats().Records)
	}
}

// The record of a write whose owner never returned is dropped some time after its lease.
func TestMemoryDropsAbandonedRecords(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := idempotency.NewMemory(idempotency.MemoryCapacity(1))
		for i := range 500 {
			id := idempotency.NewID("tenant", "/m", idempotency.Key(strconv.Itoa(i)))
			_, _ = m.Begin(t.Context(), idempotency.Claim{ID: id, Owner: "a", Lease: time.Minute})
			time.Sleep(2 * time.Hour)
		}
		if m.Stats().Records > 64 {
			t.Errorf("%d records are left", m.Stats().Records)
		}
	})
}

// A process that was paused for longer than a lease does not run its own write twice.
func TestMemoryDoesNotTakeOverWhileTheHandlerRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := idempotency.NewMemory()
		var running atomic.Bool
		running.Store(true)
		claim := idempotency.Claim{ID: idempotency.NewID("", "/m", "k"), Owner: "a", Lease: time.Minute, Retention: 24 * time.Hour, Running: &running}
		a, err := m.Begin(t.Context(), claim)
		if err != nil || a.State != idempotency.Run {
			t.Fatal(a, err)
		}
		time.Sleep(48 * time.Hour)
		other := claim
		other.Owner, other.Running = "b", nil
		if b, err := m.Begin(t.Context(), other); err != nil || b.State != idempotency.Join {
			t.Errorf("while it runs: told %v, %v, want join", b.State, err)
		}
		if b, err := m.Look(t.Context(), other); err != nil || b.State != idempotency.Join {
			t.Errorf("while it runs: looking told %v, %v, want join", b.State, err)
		}
		if err := m.Extend(t.Context(), idempotency.Lease{ID: claim.ID, Owner: "a", Fence: a.Fence}, time.Minute); err != nil {
			t.Errorf("the owner: %v", err)
		}
		running.Store(false)
		time.Sleep(2 * time.Minute)
		if b, err := m.Begin(t.Context(), other); err != nil || b.State != idempotency.Run || !b.TakenOver {
			t.Errorf("when it has ended without a word: told %v, taken over %v, %v", b.State, b.TakenOver, err)
		}
	})
}

// A possible effect is remembered for the retention of the claim, however short leases are,
// and whatever shorter retention it is released with.
func TestMemoryRemembersAnEffectForTheRetention(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, released := range []bool{true, false} {
			m := idempotency.NewMemory()
			claim := idempotency.Claim{ID: idempotency.NewID("", "/m", "k"), Owner: "a", Lease: time.Minute, Retention: 24 * time.Hour}
			a, err := m.Begin(t.Context(), claim)
			if err != nil {
				t.Fatal(err)
			}
			if released {
				if err := m.Release(t.Context(), idempotency.Lease{ID: claim.ID, Owner: "a", Fence: a.Fence}, true, time.Hour); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(23 * time.Hour)
			if b, err := m.Look(t.Context(), claim); err != nil || b.State != idempotency.Absent || !b.TakenOver {
				t.Errorf("released %v: told %v, taken over %v, %v within the retention", released, b.State, b.TakenOver, err)
			}
			time.Sleep(2 * time.Hour)
			if b, err := m.Look(t.Context(), claim); err != nil || b.State != idempotency.Absent || b.TakenOver {
				t.Errorf("released %v: told %v, taken over %v, %v after the retention", released, b.State, b.TakenOver, err)
			}
		}
	})
}

// A completed or released record keeps no reference to the call that made it, so that the garbage
// collector can free the call.
func TestEndedRecordKeepsNoReferenceToItsCall(t *testing.T) {
	t.Parallel()
	m := idempotency.NewMemory()
	for how, end := range map[string]func(idempotency.Lease) error{
		"completed": func(l idempotency.Lease) error { return m.Complete(t.Context(), l, []byte("outcome"), time.Hour) },
		"released":  func(l idempotency.Lease) error { return m.Release(t.Context(), l, true, time.Hour) },
	} {
		freed := make(chan struct{})
		func() {
			running := &struct {
				atomic.Bool
				_ [16]byte // beyond the size that the runtime allocates in blocks with others, which keep it alive
			}{}
			runtime.AddCleanup(running, func(c chan struct{}) { close(c) }, freed)
			running.Store(true)
			claim := idempotency.Claim{ID: idempotency.NewID("", "/m", idempotency.Key(how)), Owner: "a", Lease: time.Minute, Running: running}
			b, err := m.Begin(t.Context(), claim)
			if err != nil {
				t.Fatal(err)
			}
			if err := end(idempotency.Lease{ID: claim.ID, Owner: "a", Fence: b.Fence}); err != nil {
				t.Fatal(err)
			}
		}()
		for collected := false; !collected; { // or the test times out
			runtime.GC()
			select {
			case <-freed:
				collected = true
			default:
			}
		}
	}
	runtime.KeepAlive(m)
}
