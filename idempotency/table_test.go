package idempotency

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// The table and the calendar of a shard say what a map and a search would.
func TestTableAndCalendarKeepToAMap(t *testing.T) {
	t.Parallel()
	for range 50 {
		var (
			s      slab
			c      = newCalendar()
			tab    = newTable()
			hash   = (&Memory{seed: maphash.MakeSeed()}).hash
			want   = map[ID]slot{}
			ids    []ID
			now    time.Duration
			random = func() time.Duration { return now + time.Duration(rand.Int64N(int64(3*time.Minute))) }
		)
		remove := func(i int) {
			id := ids[i]
			ids[i] = ids[len(ids)-1]
			ids = ids[:len(ids)-1]
			at := tab.get(&s, &id, hash(&id))
			if got := c.remove(&s, s.at(at)); got != at {
				t.Fatalf("the calendar has %d for slot %d", got, at)
			}
			tab.remove(at, hash(&id))
			s.free(at)
			delete(want, id)
		}
		for range 3000 {
			switch n := rand.IntN(10); {
			case n < 5:
				id := ID{byte(rand.IntN(256)), byte(rand.IntN(256))}
				if _, there := want[id]; there {
					continue
				}
				at := s.take()
				r := s.at(at)
				if r.outcome != nil {
					t.Fatal("a slot was not emptied")
				}
				r.id, r.outcome, r.until, r.done = id, []byte("outcome"), random(), true
				tab.add(at, hash(&id))
				c.add(&s, at, instantOf(r.due(), now))
				want[id], ids = at, append(ids, id)
			case n < 7 && len(ids) > 0:
				remove(rand.IntN(len(ids)))
			case n < 8 && len(ids) > 0: // moves to another page
				r := s.at(want[ids[rand.IntN(len(ids))]])
				r.until = random()
				c.add(&s, c.remove(&s, r), instantOf(r.due(), now))
			default:
				now += time.Duration(rand.Int64N(int64(2 * time.Second)))
				for at := c.first(now); at != none; at = c.first(now) {
					if r := s.at(at); r.due() > now {
						t.Fatalf("dropped %v before it was due", r.due()-now)
					}
					for i, id := range ids {
						if want[id] == at {
							remove(i)
							break
						}
					}
				}
				for id, at := range want {
					if late := now - s.at(at).due(); late > far {
						t.Fatalf("%v is left %v after it was due", id[:2], late)
					}
				}
			}
		}
		if tab.n != len(want) {
			t.Fatalf("%d entries, want %d", tab.n, len(want))
		}
		for a := range 256 {
			for b := range 256 {
				id := ID{byte(a), byte(b)}
				if got := tab.get(&s, &id, hash(&id)); got != want[id] {
					t.Fatalf("%v is in slot %d, want %d", id[:2], got, want[id])
				}
			}
		}
	}
}

// Records and shards lie on cache lines as they are meant to.
func TestLayoutIsThatOfCacheLines(t *testing.T) {
	t.Parallel()
	const line = 64
	if size := unsafe.Sizeof(memoryRecord{}); size != 2*line {
		t.Errorf("a record has %d bytes", size)
	}
	if at := unsafe.Offsetof(memoryRecord{}.owner); at != line {
		t.Errorf("the second half of a record begins at %d", at)
	}
	if size := unsafe.Sizeof(shard{}); size%line != 0 {
		t.Errorf("a shard has %d bytes", size)
	}
	if end := unsafe.Offsetof(shard{}.slab) + unsafe.Offsetof(slab{}.chunks); end > line-8 { // the first 8 bytes of shards may be Go's
		t.Errorf("what claims change in a shard ends at %d", end)
	}
	var s slab
	for range 3 * chunkLen {
		s.take()
	}
	for i, chunk := range s.chunks {
		if at := uintptr(unsafe.Pointer(chunk)); at%line != 0 {
			t.Errorf("chunk %d begins at %d", i, at%line)
		}
	}
}

// What is dropped is used again, and no page is kept.
func TestMemoryDoesNotGrow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(MemoryCapacity(1))
		m.capacity = 1000
		s := &m.shards[0]
		for n := range uint64(20_000) {
			writeNumber(t, m, n, 100*time.Millisecond)
			time.Sleep(time.Millisecond)
		}
		if s.records.n > 200 || s.slab.used > 200 || len(s.due.pages) > 200 || len(s.due.known) > len(s.due.order) || len(s.due.order) > 200 {
			t.Errorf("%d records in %d slots, %d pages of which %d are known and %d ordered",
				s.records.n, s.slab.used, len(s.due.pages), len(s.due.known), len(s.due.order))
		}
		for at := range s.slab.used {
			if r := s.slab.at(at + 1); r.hash != m.hash(&r.id) {
				t.Fatalf("the record of %v has the hash of another", r.id)
			}
		}
	})
}

// As many records are dropped as come, and twice as many if some should have been
// dropped before.
func TestMemoryDropsAsManyAsCome(t *testing.T) {
	t.Parallel()
	const old, others = 60 * batch, 40 * batch
	for late, want := range map[time.Duration]int{near: old, 2 * behind: others} {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemory(MemoryCapacity(1))
			m.capacity = 2 * old
			for n := range uint64(old) {
				writeNumber(t, m, n, 10*time.Second)
			}
			time.Sleep(10*time.Second + late)
			for n := range uint64(others) {
				writeNumber(t, m, old+n, time.Hour)
			}
			if got := m.Len(); got != want {
				t.Errorf("%v late: %d records, want %d", late, got, want)
			}
		})
	}
}

// What is due goes though nothing new comes, and so do pages that are empty.
func TestMemoryDropsWhileClaimsAreJoinedAndReplayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(MemoryCapacity(1))
		m.capacity = 1000
		s := &m.shards[0]
		const others = 100
		for n := range uint64(others) {
			writeNumber(t, m, n, time.Second)
		}
		claim := Claim{ID: ID{1}, Owner: "owner", Lease: time.Second}
		begun, err := m.Begin(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		lease := Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}
		claim.Owner = "another"
		for range 10_000 { // an hour for which an abandoned record is kept, and more
			time.Sleep(500 * time.Millisecond)
			if err := m.Extend(t.Context(), lease, time.Second); err != nil {
				t.Fatal(err)
			}
			if begun, err := m.Begin(t.Context(), claim); err != nil || begun.State != Join {
				t.Fatal(begun.State, err)
			}
		}
		if s.records.n != 1 || len(s.due.pages) > 4000 {
			t.Errorf("%d records, %d pages", s.records.n, len(s.due.pages))
		}
	})
}

// A record that was taken over is kept for the new lease.
func TestRecordThatIsTakenOverIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(MemoryCapacity(1))
		m.capacity = 1000
		claim := Claim{ID: ID{1}, Owner: "owner", Lease: time.Second}
		if _, err := m.Begin(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		claim.Owner, claim.Lease = "another", 5*abandoned
		begun, err := m.Begin(t.Context(), claim)
		if err != nil || !begun.TakenOver {
			t.Fatal(begun, err)
		}
		time.Sleep(4 * abandoned)
		for n := range uint64(2 * batch) {
			writeNumber(t, m, n, time.Second)
		}
		if err := m.Complete(t.Context(), Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}, nil, time.Hour); err != nil {
			t.Error(err)
		}
	})
}

// A store that is full has room again as soon as something is due.
func TestFullMemoryDropsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const capacity = 3*batch/2 + 1
		m := NewMemory(MemoryCapacity(capacity))
		for n := range uint64(capacity) {
			writeNumber(t, m, n, 10*time.Second)
		}
		time.Sleep(10*time.Second + near)
		for n := range uint64(capacity) {
			writeNumber(t, m, capacity+n, time.Hour)
		}
		if got := m.Len(); got != capacity {
			t.Errorf("%d records, want %d", got, capacity)
		}
	})
}

// A record whose time is over is gone, whether it was dropped or not.
func TestRecordThatIsDueIsNotReplayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		for n := range uint64(1000) {
			writeNumber(t, m, n, 10*time.Second)
		}
		time.Sleep(20 * time.Second)
		for n := range uint64(1000) {
			writeNumber(t, m, 999-n, time.Hour)
		}
	})
}

// writeNumber makes a write that nobody has made.
func writeNumber(t *testing.T, m *Memory, n uint64, retention time.Duration) {
	t.Helper()
	var id ID
	binary.BigEndian.PutUint64(id[8:], n)
	begun, err := m.Begin(t.Context(), Claim{ID: id, Owner: "owner", Lease: time.Second})
	if err != nil || begun.State != Run {
		t.Fatalf("write %d: %v, %v", n, begun.State, err)
	}
	if err := m.Complete(t.Context(), Lease{ID: id, Owner: "owner", Fence: begun.Fence}, nil, retention); err != nil {
		t.Fatal(err)
	}
}
