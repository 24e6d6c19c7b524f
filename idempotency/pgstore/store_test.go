package pgstore_test

import (
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	_, pool := newDatabase(t)
	store := newStore(t, pool)
	storetest.Run(t, func(*testing.T) idempotency.Store { return store })
}
