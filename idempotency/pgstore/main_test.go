package pgstore_test

import (
	"context"
	"testing"

	"github.com/hopbound/hopbound/idempotency/pgstore"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newPool connects to a server until the test ends.
func newPool(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// newStore returns a store in a database that is migrated.
func newStore(t testing.TB, pool *pgxpool.Pool, opts ...pgstore.Option) *pgstore.Store {
	t.Helper()
	if err := pgstore.Migrate(context.Background(), pool, opts...); err != nil {
		t.Fatal(err)
	}
	s, err := pgstore.New(pool, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if err := s.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s
}

// newDatabase runs a server and connects to it.
func newDatabase(t testing.TB, settings ...string) (*services.Server, *pgxpool.Pool) {
	t.Helper()
	s := services.Postgres(t, settings...)
	return s, newPool(t, s.URL())
}
