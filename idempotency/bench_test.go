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

func number(n uint64) (id idempotency.ID) {
	binary.BigEndian.PutUint64(id[:], n*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

// BenchmarkMemory claims and completes new writes, on all cores; beside it the
// same in a sync.Map.
func BenchmarkMemory(b *testing.B) {
	outcome := []byte("an outcome")
	var n atomic.Uint64
	b.Run("claim and complete", func(b *testing.B) {
		m := idempotency.NewMemory(idempotency.MemoryCapacity(1 << 30))
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			ctx := context.Background()
			for pb.Next() {
				id := number(n.Add(1))
				begun, err := m.Begin(ctx, idempotency.Claim{ID: id, Owner: "owner", Lease: time.Minute})
				if err != nil || begun.State != idempotency.Run {
					b.Error(begun, err)
				}
				if err := m.Complete(ctx, idempotency.Lease{ID: id, Owner: "owner", Fence: begun.Fence}, outcome, time.Hour); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("sync.Map", func(b *testing.B) {
		var m sync.Map
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				id := number(n.Add(1))
				m.LoadOrStore(id, "owner")
				m.Store(id, outcome)
			}
		})
	})
}
