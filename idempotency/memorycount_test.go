package idempotency

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// recount checks that the counts of a store match its records, and that each record is in one
// list.
func (m *Memory) recount(t *testing.T) {
	t.Helper()
	var used use
	tenants := map[string]use{}
	for i := range m.shards {
		s := &m.shards[i]
		filed := map[place]int64{}
		for second, at := range s.due {
			for before := place(0); at != 0; before, at = at, s.records[at].next {
				if r := &s.records[at]; r.due != second || r.before != before || filed[at] != 0 {
					t.Fatalf("record %d is in the list of second %d, and says %d after %d", at, second, r.due, r.before)
				}
				filed[at] = second
			}
		}
		if len(filed) != len(s.index) || len(s.index)+len(s.free)+1 != len(s.records) {
			t.Fatalf("%d records, %d filed, %d free of %d", len(s.index), len(filed), len(s.free), len(s.records))
		}
		for id, at := range s.index {
			r := &s.records[at]
			if r.id != id || r.size != recordBytes+int64(len(r.Owner)+len(r.Data)) {
				t.Fatalf("record %d counts as %d bytes", at, r.size)
			}
			used.records, used.bytes = used.records+1, used.bytes+r.size
			if r.tenant != nil {
				of := tenants[r.tenant.tenant]
				tenants[r.tenant.tenant] = use{records: of.records + 1, bytes: of.bytes + r.size}
			}
		}
	}
	if used != m.room.used || len(tenants) != len(m.room.tenants) {
		t.Fatalf("it holds %+v of %d tenants, and counts %+v of %d", used, len(tenants), m.room.used, len(m.room.tenants))
	}
	for name, of := range m.room.tenants {
		if held := tenants[name]; held.records != of.records || held.bytes != of.bytes {
			t.Fatalf("tenant %s holds %+v, and counts %+v", name, held, *of)
		}
	}
}

// After random steps, the counts of the store match its records.
func TestMemoryCountsMatchItsRecords(t *testing.T) {
	t.Parallel()
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemory(MemoryCapacity(200), MemoryBytes(1<<16+1<<15))
			leases := map[ID]Lease{}
			ctx := t.Context()
			for n := range 1500 {
				id := NewID("", "/m", Key(strconv.Itoa(rand.IntN(120))))
				lease := leases[id]
				switch rand.IntN(8) {
				case 0, 1, 2:
					claim := Claim{ID: id, Owner: strconv.Itoa(n), Lease: time.Duration(rand.IntN(5000)) * time.Millisecond, Tenant: []string{"", "a", "b"}[rand.IntN(3)]}
					claim.Lease = max(claim.Lease, time.Millisecond)
					if b, err := m.Begin(ctx, claim); err == nil && b.State == Run {
						leases[id] = Lease{ID: id, Owner: claim.Owner, Fence: b.Fence}
					}
				case 3:
					_ = m.Complete(ctx, lease, make([]byte, rand.IntN(900)), time.Duration(rand.IntN(60))*time.Second)
				case 4:
					_ = m.Save(ctx, lease, make([]byte, rand.IntN(300)))
				case 5:
					_ = m.Release(ctx, lease, rand.IntN(2) == 0, time.Duration(rand.IntN(60))*time.Second)
				case 6:
					_ = m.Extend(ctx, lease, time.Duration(rand.IntN(9000))*time.Millisecond)
				default:
					time.Sleep(time.Duration(rand.IntN(3000)) * time.Millisecond)
				}
				if n%50 == 0 {
					m.recount(t)
				}
			}
			time.Sleep(3 * time.Hour)
			m.sweep()
			if m.recount(t); m.room.used != (use{}) {
				t.Errorf("%+v are left", m.room.used)
			}
		})
	}
}

// A key that is often claimed and released leaves no record and no list.
func TestReleasedKeyLeavesNothingInMemory(t *testing.T) {
	t.Parallel()
	m := NewMemory()
	id := NewID("", "/m", "k")
	for range 1000 {
		b, err := m.Begin(t.Context(), Claim{ID: id, Owner: "a", Lease: time.Minute, Retention: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Release(t.Context(), Lease{ID: id, Owner: "a", Fence: b.Fence}, false, 0); err != nil {
			t.Fatal(err)
		}
	}
	m.recount(t)
	for i := range m.shards {
		if s := &m.shards[i]; len(s.due) > 0 || len(s.records) > 2 {
			t.Errorf("shard %d has %d lists and %d places", i, len(s.due), len(s.records))
		}
	}
}
