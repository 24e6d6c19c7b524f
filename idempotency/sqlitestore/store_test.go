package sqlitestore_test

import (
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/sqlitestore"
	"github.com/hopbound/hopbound/idempotency/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	path := newPath(t)
	db := open(t, path)
	purger := newStore(t, db, sqlitestore.WithExpiry(0))
	storetest.Run(t, storetest.Backend{
		Open: func(t *testing.T) idempotency.Store {
			t.Helper()
			return newStore(t, open(t, path))
		},
		Records: func(t *testing.T) (n int) {
			t.Helper()
			if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM hopbound_idempotency").Scan(&n); err != nil {
				t.Fatal(err)
			}
			if _, err := purger.Expire(t.Context()); err != nil { // for the next count
				t.Fatal(err)
			}
			return n
		},
	})
}
