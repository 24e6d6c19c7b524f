package storetest_test

import (
	"testing"
	"testing/synctest"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/storetest"
)

func TestMemoryPassesTheSuite(t *testing.T) {
	t.Parallel()
	// A bubble cannot have subtests, so that the suite runs in real time.
	m := idempotency.NewMemory()
	storetest.Run(t, storetest.Backend{
		Open:    func(*testing.T) idempotency.Store { return m },
		Records: func(*testing.T) int { return int(m.Stats().Records) },
		Single:  true,
	})
}

func TestMemoryIsLinearizable(t *testing.T) {
	t.Parallel()
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			storetest.CheckLinearizable(t, idempotency.NewMemory(), storetest.History{Clients: 12})
		})
	}
}
