package pgstore_test

import (
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	_, pool := newDatabase(t)
	purger := newStore(t, pool)
	storetest.Run(t, storetest.Backend{
		Open: func(*testing.T) idempotency.Store { return newStore(t, pool) },
		Records: func(t *testing.T) (n int) {
			t.Helper()
			if _, err := purger.Expire(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM hopbound_idempotency").Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		},
	})
}
