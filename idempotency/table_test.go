package idempotency

import (
	"hash/maphash"
	"math/rand/v2"
	"testing"
	"time"
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
				if r.outcome != nil || r.changed != nil {
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
