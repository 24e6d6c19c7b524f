package idempotency_test

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// number returns the ID of a write. IDs look as random as hashes (they come from the
// finalizer of SplitMix64).
func number(n uint64) (id idempotency.ID) {
	h := n * 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	binary.BigEndian.PutUint64(id[:], h^h>>31)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

// BenchmarkMemory claims and completes new writes on all cores, with two retentions.
// With the shorter one, the store has some hundred thousand records at a time, and
// drops old ones as new ones come. With the longer one, it keeps all. For
// comparison, each runs with a sync.Map too, which drops the key that was added as
// many keys earlier on the same core, or none.
func BenchmarkMemory(b *testing.B) {
	outcome := []byte("an outcome")
	const window = 1 << 17
	for name, retention := range map[string]time.Duration{"window": 50 * time.Millisecond, "growing": time.Hour} {
		b.Run(name+"/memory", func(b *testing.B) {
			var workers atomic.Uint64
			m := idempotency.NewMemory(idempotency.MemoryCapacity(1<<30), idempotency.MemoryBytes(1<<40))
			ctx := context.Background()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				n := workers.Add(1) << 40
				for ; pb.Next(); n++ {
					id := number(n)
					begun, err := m.Begin(ctx, idempotency.Claim{ID: id, Owner: "owner", Lease: time.Minute})
					if err != nil || begun.State != idempotency.Run {
						b.Error(begun, err)
					}
					if err := m.Complete(ctx, idempotency.Lease{ID: id, Owner: "owner", Fence: begun.Fence}, outcome, retention); err != nil {
						b.Error(err)
					}
				}
			})
			b.ReportMetric(float64(m.Stats().Records), "records")
		})
		b.Run(name+"/sync.Map", func(b *testing.B) {
			var workers atomic.Uint64
			var m sync.Map
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				n := workers.Add(1) << 40
				for ; pb.Next(); n++ {
					id := number(n)
					m.LoadOrStore(id, "owner")
					m.Store(id, outcome)
					if retention < time.Hour {
						m.Delete(number(n - window))
					}
				}
			})
		})
	}
}
