package idempotency_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

var filled atomic.Int64 // writes of all tests

// fillFor claims and completes new writes of a tenant until the store is full or there are as
// many as were asked for. It returns how many there are, and the error.
func fillFor(t *testing.T, m *idempotency.Memory, tenant string, most, outcome int) (int, error) {
	t.Helper()
	for i := range most {
		id := idempotency.NewID(tenant, "/m", idempotency.Key(strconv.FormatInt(filled.Add(1), 10)))
		b, err := m.Begin(t.Context(), idempotency.Claim{ID: id, Owner: "a", Lease: time.Minute, Tenant: tenant})
		if err != nil {
			return i, err
		}
		if err := m.Complete(t.Context(), idempotency.Lease{ID: id, Owner: "a", Fence: b.Fence}, make([]byte, outcome), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	return most, nil
}

func TestMemoryIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const bound = 16 << 20
		m := idempotency.NewMemory(idempotency.MemoryBytes(bound))
		n, err := fillFor(t, m, "", 1<<20, 10_000)
		var full *idempotency.FullError
		if !errors.Is(err, idempotency.ErrFull) || !errors.As(err, &full) {
			t.Fatalf("%d records, %v", n, err)
		}
		if full.Room < time.Hour-time.Minute || full.Room > time.Hour+time.Minute || !strings.Contains(err.Error(), "there may be room in 1h0m") {
			t.Errorf("there will be room in %v (%v)", full.Room, err)
		}
		if st := m.Stats(); st.Bytes > bound+64*10_000 || st.Bytes < bound/2 || st.MaxBytes != bound || st.Records != int64(n) {
			t.Errorf("after %d records: %+v", n, st)
		}
		time.Sleep(2 * time.Hour)
		if _, err := fillFor(t, m, "later", 100, 10_000); err != nil {
			t.Errorf("after the retention: %v", err)
		}
		if st := m.Stats(); st.Purged == 0 {
			t.Errorf("nothing was purged: %+v", st)
		}
	})
	for _, m := range []*idempotency.Memory{idempotency.NewMemory(idempotency.MemoryBytes(1)), idempotency.NewMemory(idempotency.MemoryCapacity(0))} {
		if m.Err() == nil {
			t.Error("a wrong option was taken")
		}
	}
}

// A tenant takes at most half of the room that the others leave, in records and in bytes.
// Records without a tenant may take all of it.
func TestTenantTakesAtMostHalfOfTheRoomThatOthersLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const many = 64_000
		for name, tc := range map[string]struct {
			m       *idempotency.Memory
			outcome int
		}{
			"records": {idempotency.NewMemory(idempotency.MemoryCapacity(many)), 0},
			"bytes":   {idempotency.NewMemory(idempotency.MemoryBytes(many * 1500)), 1000},
		} {
			first, err := fillFor(t, tc.m, "greedy", many, tc.outcome)
			if !errors.Is(err, idempotency.ErrFull) || first < many*4/10 || first > many*55/100 {
				t.Errorf("%s: the first tenant took %d of %d, %v", name, first, many, err)
			}
			second, err := fillFor(t, tc.m, "second", many, tc.outcome)
			if !errors.Is(err, idempotency.ErrFull) || second < many*2/10 || second > many*3/10 {
				t.Errorf("%s: the second tenant took %d of %d, %v", name, second, many, err)
			}
			if n, err := fillFor(t, tc.m, "small", 10, tc.outcome); err != nil {
				t.Errorf("%s: another tenant took %d, %v", name, n, err)
			}
			rest, err := fillFor(t, tc.m, "", many, tc.outcome)
			if n, err := fillFor(t, tc.m, "late", 10, tc.outcome); n > 0 || !errors.Is(err, idempotency.ErrFull) {
				t.Errorf("%s: a tenant took %d of a full store, %v", name, n, err)
			}
			if all := first + second + 10 + rest; !errors.Is(err, idempotency.ErrFull) || all < many*9/10 {
				t.Errorf("%s: %d of %d in all, %v", name, all, many, err)
			}
			time.Sleep(2 * time.Hour)
			if n, err := fillFor(t, tc.m, "greedy", many/4, tc.outcome); err != nil {
				t.Errorf("%s: after the retention: %d, %v", name, n, err)
			}
		}
	})
}

// The store warns before it refuses, at most once an hour.
func TestMemoryWarnsBeforeItIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := idempotency.NewMemory(idempotency.MemoryCapacity(64_000), idempotency.MemoryLogger(slog.New(slog.NewTextHandler(&log, nil))))
		if _, err := fillFor(t, m, "", 40_000, 0); err != nil || log.Len() > 0 {
			t.Fatal(err, log.String())
		}
		if _, err := fillFor(t, m, "", 20_000, 0); err != nil {
			t.Fatal(err)
		}
		if got := log.String(); strings.Count(got, "nearly full") != 1 {
			t.Error(got)
		}
		time.Sleep(2 * time.Hour)
		log.Reset()
		if _, err := fillFor(t, m, "", 1, 0); err != nil || log.Len() > 0 { // those before are over
			t.Error(err, log.String())
		}
		if _, err := fillFor(t, m, "greedy", 27_000, 0); err != nil {
			t.Fatal(err)
		}
		if got := log.String(); strings.Count(got, "nearly full") != 1 || !strings.Contains(got, "tenant=greedy") {
			t.Error(got)
		}
	})
}

// The number of bytes that a store counts is about the number that it takes.
func TestMemoryCountsAboutTheBytesThatItTakes(t *testing.T) { //nolint:paralleltest // it measures the heap of the process
	for _, outcome := range []int{0, 2000} {
		heap := func() int64 {
			var st runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&st)
			return int64(st.HeapAlloc)
		}
		before := heap()
		m := idempotency.NewMemory(idempotency.MemoryBytes(1 << 40))
		if _, err := fillFor(t, m, "tenant", 100_000, outcome); err != nil {
			t.Fatal(err)
		}
		took, counted := heap()-before, m.Stats().Bytes
		runtime.KeepAlive(m)
		text := fmt.Sprintf("outcomes of %d bytes: %d bytes for a record, counted as %d", outcome, took/100_000, counted/100_000)
		if took > counted*11/10 || took < counted/2 {
			t.Error(text)
		}
		t.Log(text)
	}
}
