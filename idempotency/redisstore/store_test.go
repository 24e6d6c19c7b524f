package redisstore_test

import (
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/hopbound/hopbound/idempotency/storetest"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"github.com/redis/rueidis"
	"go.uber.org/goleak"
)

// A client of a Cluster that has learned of a change closes old connections five seconds
// later.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1")) // it sleeps for up to a second before a refresh
}

func newClient(t testing.TB, opt rueidis.ClientOption) rueidis.Client {
	t.Helper()
	opt.DisableCache = true
	c, err := rueidis.NewClient(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newStoreAs(t testing.TB, c rueidis.Client, opts ...redisstore.Option) *redisstore.Store {
	t.Helper()
	s, err := redisstore.New(c, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newStore(t testing.TB, c rueidis.Client, opts ...redisstore.Option) *redisstore.Store {
	t.Helper()
	s := newStoreAs(t, c, opts...)
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// backend is what the suite runs on: each handle has a client of its own.
func backend(t *testing.T, opt rueidis.ClientOption) storetest.Backend {
	t.Helper()
	counter := newClient(t, opt)
	return storetest.Backend{
		Open: func(*testing.T) idempotency.Store { return newStore(t, newClient(t, opt)) },
		Records: func(t *testing.T) int {
			t.Helper()
			records := 0
			for _, node := range counter.Nodes() {
				n, err := node.Do(t.Context(), node.B().Dbsize().Build()).AsInt64()
				if err != nil {
					t.Fatal(err)
				}
				records += int(n)
			}
			return records
		},
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, backend(t, rueidis.ClientOption{InitAddress: []string{services.Redis(t).Addr}}))
}
