package idempotency

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
)

// The table and the calendar of a shard say what a map and a search would, also when
// hashes are so alike that most groups are full.
func TestTableAndCalendarKeepToAMap(t *testing.T) {
	t.Parallel()
	for round := range 60 {
		var (
			s      slab
			c      = newCalendar()
			tab    = newTable()
			m      = &Memory{seed: maphash.MakeSeed()}
			want   = map[ID]slot{}
			ids    []ID
			now    time.Duration
			random = func() time.Duration { return now + time.Duration(rand.Int64N(int64(3*time.Minute))) }
			hash   = m.hash
		)
		switch round % 3 {
		case 1: // some groups, and some tags
			hash = func(id *ID) uint32 { return m.hash(id) & 0x03000007 }
		case 2: // no tag
			hash = func(id *ID) uint32 { return m.hash(id) & 0x000000ff }
		}
		remove := func(e entry) {
			id := s.at(e.at).id
			i := slices.Index(ids, id)
			if i < 0 || want[id] != e.at {
				t.Fatalf("slot %d has %v, which is in %d", e.at, id[:2], want[id])
			}
			ids[i] = ids[len(ids)-1]
			ids = ids[:len(ids)-1]
			delete(want, id)
			tab.remove(e)
			s.free(e.at)
		}
		for range 3000 {
			switch n := rand.IntN(10); {
			case n < 5:
				id := ID{byte(rand.IntN(256)), byte(rand.IntN(256))}
				if _, there := want[id]; there {
					continue
				}
				tab.reserve(&s, len(want)+1)
				at := s.take()
				r := s.at(at)
				if r.outcome != nil || r.changed != nil {
					t.Fatal("a slot was not emptied")
				}
				r.id, r.hash, r.outcome, r.changed, r.until, r.done, r.page = id, hash(&id), []byte("outcome"), make(chan struct{}), random(), true, noPage
				tab.add(entry{at, r.hash})
				c.add(&s, entry{at, r.hash}, instantOf(r.due(), now))
				want[id], ids = at, append(ids, id)
			case n < 7 && len(ids) > 0:
				at := want[ids[rand.IntN(len(ids))]]
				e := c.remove(&s, s.at(at))
				if (e != entry{at, s.at(at).hash}) {
					t.Fatalf("the calendar has %v for slot %d", e, at)
				}
				remove(e)
			case n < 8 && len(ids) > 0: // moves to another page
				r := s.at(want[ids[rand.IntN(len(ids))]])
				r.until = random()
				c.add(&s, c.remove(&s, r), instantOf(r.due(), now))
			default:
				now += time.Duration(rand.Int64N(int64(2 * time.Second)))
				most := 1 + rand.IntN(20)
				for due := c.take(now, most); len(due) > 0; due = c.take(now, most) {
					if len(due) > most {
						t.Fatalf("%d records, want %d at most", len(due), most)
					}
					for _, e := range due {
						if r := s.at(e.at); r.due() > now {
							t.Fatalf("dropped %v before it was due", r.due()-now)
						}
						remove(e)
					}
				}
				for id, at := range want {
					if late := now - s.at(at).due(); late > far {
						t.Fatalf("%v is left %v after it was due", id[:2], late)
					}
				}
			}
		}
		for a := range 256 {
			for b := range 256 {
				id := ID{byte(a), byte(b)}
				if got := tab.get(&s, &id, hash(&id)); got != want[id] {
					t.Fatalf("%v is in slot %d, want %d", id[:2], got, want[id])
				}
			}
		}
		for len(ids) > 0 {
			remove(c.remove(&s, s.at(want[ids[0]])))
		}
		for i, g := range tab.tags {
			if g != (tags{}) {
				t.Fatalf("group %d has %v, and there is no record", i, g)
			}
		}
	}
}

// A search ends though records went on from all groups, each at another time.
func TestSearchEndsThoughRecordsWentOnFromAllGroups(t *testing.T) {
	t.Parallel()
	var s slab
	tab := newTable()
	tab.reserve(&s, 2*mostEach)
	place := func(group uint32) entry {
		e := entry{s.take(), group}
		r := s.at(e.at)
		r.id, r.hash = ID{byte(e.at)}, group
		tab.add(e)
		return e
	}
	var first []entry
	for range groupLen {
		first = append(first, place(0))
	}
	went := []entry{place(0)}
	for _, e := range first {
		tab.remove(e)
	}
	for range groupLen {
		went = append(went, place(1))
	}
	if len(tab.tags) != 2 || tab.tags[0].passed == 0 || tab.tags[1].passed == 0 {
		t.Fatalf("%v", tab.tags)
	}
	for _, e := range went {
		r := s.at(e.at)
		if got := tab.get(&s, &r.id, r.hash); got != e.at {
			t.Errorf("slot %d, want %d", got, e.at)
		}
	}
	if got := tab.get(&s, &ID{}, 0); got != none {
		t.Errorf("slot %d for what is not there", got)
	}
}

// A shard that stays as full as its table may be goes on.
func TestMemoryStaysFull(t *testing.T) {
	t.Parallel()
	for _, capacity := range []int{mostEach, 2 * mostEach, 4 * mostEach, 8 * mostEach} {
		m := NewMemory(MemoryCapacity(capacity))
		var leases []Lease
		for n := range uint64(500_000) {
			if len(leases) == capacity {
				i := rand.IntN(len(leases))
				if err := m.Release(t.Context(), leases[i]); err != nil {
					t.Fatal(err)
				}
				leases[i] = leases[len(leases)-1]
				leases = leases[:len(leases)-1]
			}
			leases = append(leases, claimNumber(t, m, n, time.Hour))
		}
	}
}

// Groups say where a tag is, and where there is none.
func TestPlacesAreThoseOfATag(t *testing.T) {
	t.Parallel()
	for range 100_000 {
		var g tags
		for i := range g.of {
			g.of[i] = []uint8{0, 1, 2, 127, 128, 129, 255}[rand.IntN(7)]
		}
		g.passed = rand.Uint32()
		for _, tag := range []uint8{0, 1, 3, 127, 128, 255} {
			var got []int
			for p := g.places(tag); p != 0; p = p.others() {
				got = append(got, p.first())
			}
			slices.Sort(got)
			var want []int
			for i, of := range g.of {
				if of == tag {
					want = append(want, i)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%v has %d at %v, want %v", g, tag, got, want)
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
	const first = line - 8 // the first 8 bytes of shards may be Go's
	if at := unsafe.Offsetof(shard{}.slab) + unsafe.Offsetof(slab{}.used); at%line != first {
		t.Errorf("what claims change in a shard begins at %d", at)
	}
	if at := unsafe.Offsetof(shard{}.fresh); at%line != first || unsafe.Sizeof(shard{}.fresh) != line {
		t.Errorf("%d bytes of fresh records begin at %d", unsafe.Sizeof(shard{}.fresh), at)
	}
	if size := unsafe.Sizeof(tags{}); line%size != 0 {
		t.Errorf("the tags of a group have %d bytes", size)
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
	testGrowth(t, time.Millisecond)
	testGrowth(t, 3*near) // each has a page for itself
}

func testGrowth(t *testing.T, between time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(MemoryCapacity(1))
		m.capacity = 1000
		s := &m.shards[0]
		for n := range uint64(20_000) {
			writeNumber(t, m, n, 100*between)
			time.Sleep(between)
		}
		if s.n > 200 || s.slab.used > 200 || len(s.due.pages) > 200 || len(s.due.known) > len(s.due.order) || len(s.due.order) > 200 {
			t.Errorf("%d records in %d slots, %d pages of which %d are known and %d ordered",
				s.n, s.slab.used, len(s.due.pages), len(s.due.known), len(s.due.order))
		}
		for at := range s.slab.used {
			if r := s.slab.at(at + 1); r.hash != m.hash(&r.id) {
				t.Fatalf("the record of %v has the hash of another", r.id)
			}
		}
	})
}

// Pages have little more room than for their records, also while it is long until they
// are due, and most of their records have been completed or released.
func TestPagesKeepLittle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(MemoryCapacity(4000))
		for round := range uint64(100) {
			var leases []Lease
			for n := range uint64(3000) {
				leases = append(leases, claimNumber(t, m, round<<32|n, time.Minute))
			}
			for i, lease := range leases[1:] {
				var err error
				if i%2 == 0 {
					err = m.Release(t.Context(), lease)
				} else {
					err = m.Complete(t.Context(), lease, nil, time.Second)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * far)
		}
		c, room := &m.shards[0].due, 0
		for _, p := range c.pages {
			room += cap(p.records)
		}
		if most := 4*m.Len() + 4*len(c.pages) + keptPages*keptOfPage; room > most {
			t.Errorf("room for %d records on %d pages, and there are %d", room, len(c.pages), m.Len())
		}
	})
}

// Room of pages that are over is used again for those that are near, and little is kept.
func TestRoomOfPagesIsUsedAgain(t *testing.T) {
	t.Parallel()
	var s slab
	c := newCalendar()
	for _, each := range []int{keptOfPage / 2, 3 * keptOfPage} {
		for due := range instant(4 * keptPages) {
			for range each {
				c.add(&s, entry{at: s.take()}, due)
			}
		}
		for due := c.take(horizon, batch); len(due) > 0; due = c.take(horizon, batch) {
			for _, e := range due {
				s.free(e.at)
			}
		}
		room := 0
		for _, r := range c.room {
			room += cap(r)
		}
		for _, p := range c.pages {
			room += cap(p.records)
		}
		if most := keptPages * keptOfPage; room > most || room < each*keptPages && each <= keptOfPage || len(c.unused) != len(c.pages) {
			t.Errorf("after %d on each, %d of %d pages are unused, and there is room for %d records", each, len(c.unused), len(c.pages), room)
		}
		later, soon := c.page(1000*farInstants), c.page(1000*farInstants+1)
		if n := cap(c.pages[later].records); n > 0 {
			t.Errorf("a page that is far has room for %d records", n)
		}
		if cap(c.pages[soon].records) < each && each <= keptOfPage {
			t.Error("a page that is near has no room")
		}
		c.take(2000*far, batch) // ends both
	}
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
		if s.n != 1 || len(s.due.pages) > 4000 {
			t.Errorf("%d records, %d pages", s.n, len(s.due.pages))
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
		for n := range uint64(batch) { // so that it has a page
			writeNumber(t, m, n, time.Second)
		}
		time.Sleep(2 * time.Second)
		claim.Owner, claim.Lease = "another", 5*abandoned
		begun, err := m.Begin(t.Context(), claim)
		if err != nil || !begun.TakenOver {
			t.Fatal(begun, err)
		}
		time.Sleep(4 * abandoned)
		for n := range uint64(2 * batch) {
			writeNumber(t, m, batch+n, time.Second)
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
	if err := m.Complete(t.Context(), claimNumber(t, m, n, time.Second), nil, retention); err != nil {
		t.Fatal(err)
	}
}

// claimNumber claims a write that nobody has made.
func claimNumber(t *testing.T, m *Memory, n uint64, lease time.Duration) Lease {
	t.Helper()
	claim := Claim{Owner: "owner", Lease: lease}
	binary.BigEndian.PutUint64(claim.ID[8:], n)
	begun, err := m.Begin(t.Context(), claim)
	if err != nil || begun.State != Run {
		t.Fatalf("write %d: %v, %v", n, begun.State, err)
	}
	return Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}
}

// The store does what its interface says, whatever became of a record since it came:
// fresh or filed, dropped or not, and its slot another's.
func TestMemoryKeepsToAModel(t *testing.T) {
	t.Parallel()
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemory(MemoryCapacity(1))
			m.capacity = 1000
			type record struct {
				Lease
				until time.Time
				done  bool
			}
			known := map[ID]*record{}
			fence := uint64(0)
			for range 5000 {
				id := ID{31: byte(rand.IntN(60))}
				r, now := known[id], time.Now()
				if r != nil && r.done && !now.Before(r.until) {
					delete(known, id)
					r = nil
				}
				switch rand.IntN(8) {
				case 0, 1, 2:
					claim := Claim{ID: id, Owner: string(rune('a' + rand.IntN(3))), Lease: time.Duration(1 + rand.Int64N(int64(5*time.Second)))}
					begun, err := m.Begin(t.Context(), claim)
					if err != nil {
						t.Fatal(err)
					}
					want, takenOver := Run, false
					switch {
					case r == nil:
					case r.done:
						want = Replay
					case r.Owner != claim.Owner && now.Before(r.until):
						want = Join
					default:
						takenOver = r.Owner != claim.Owner
					}
					if begun.State != want || begun.TakenOver != takenOver {
						t.Fatalf("%v, taken over: %v; want %v, %v", begun.State, begun.TakenOver, want, takenOver)
					}
					switch {
					case want == Replay && string(begun.Outcome) != r.Owner:
						t.Fatalf("the outcome of %q, want that of %q", begun.Outcome, r.Owner)
					case want == Run && (r == nil || takenOver):
						if begun.Fence <= fence {
							t.Fatalf("fence %d after %d", begun.Fence, fence)
						}
						fence = begun.Fence
						known[id] = &record{Lease: Lease{ID: id, Owner: claim.Owner, Fence: fence}, until: now.Add(claim.Lease)}
					case want == Run && begun.Fence != r.Fence:
						t.Fatalf("fence %d, want that of before, %d", begun.Fence, r.Fence)
					}
				case 3, 4:
					if r == nil {
						continue
					}
					retention := time.Duration(rand.Int64N(int64(20 * time.Second)))
					if err := m.Complete(t.Context(), r.Lease, []byte(r.Owner), retention); err != nil {
						t.Fatal(err)
					}
					if !r.done {
						r.done, r.until = true, now.Add(retention)
					}
				case 5:
					if r == nil {
						continue
					}
					err := m.Release(t.Context(), r.Lease)
					if errors.Is(err, ErrLeaseLost) != r.done {
						t.Fatalf("released what is done: %v: %v", r.done, err)
					}
					if !r.done {
						delete(known, id)
					}
				case 6:
					if r == nil {
						continue
					}
					d := time.Duration(rand.Int64N(int64(10 * time.Second)))
					err := m.Extend(t.Context(), r.Lease, d)
					if errors.Is(err, ErrLeaseLost) != r.done {
						t.Fatalf("extended what is done: %v: %v", r.done, err)
					}
					if until := now.Add(d); !r.done && until.After(r.until) {
						r.until = until
					}
				default:
					time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
				}
			}
			held := 0
			for _, r := range known {
				if !r.done || time.Now().Before(r.until) {
					held++
				}
			}
			if got := m.Len(); got < held || got > 60 {
				t.Errorf("%d records, of which %d are held", got, held)
			}
		})
	}
}
