package bulkhead_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// A full server asks its caller to wait, and does not say that a write may have happened.
func TestServerSendsPushback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, err := interceptors.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		b := newBulkhead(t, 1, bulkhead.Queue(0))
		c := companiontest.Connect(t, &companiontest.Server{Handle: func(context.Context) error { time.Sleep(100 * ms); return nil }}, append(server.ServerOptions(), b.ServerOptions()...))
		var wg sync.WaitGroup
		check := func(opts ...grpc.CallOption) error {
			_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}, opts...)
			return err
		}
		wg.Go(func() { _ = check() })
		wg.Wait() // calls usually take 100 ms
		wg.Go(func() { _ = check() })
		synctest.Wait()
		var trailer metadata.MD
		wait, ok := full(check(grpc.Trailer(&trailer)))
		if pushback := trailer.Get("grpc-retry-pushback-ms"); !ok || wait != 100*ms || !slices.Equal(pushback, []string{"100"}) {
			t.Errorf("told to wait for %v, with the pushback %q", wait, pushback)
		}
		wg.Wait()
	})
}

// At a client, a call without a place is not sent, costs no token, and is not retried.
func TestClientDoesNotSendWhatHasNoPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tokens := budget.New(budget.MinPerSecond(0))
		client, err := interceptors.NewClient(interceptors.WithBudget(tokens), interceptors.WithPolicy(interceptors.MethodPolicies{"": {
			Retry: &interceptors.RetryPolicy{MaxAttempts: 3, Codes: []codes.Code{codes.ResourceExhausted}},
		}}))
		if err != nil {
			t.Fatal(err)
		}
		b := newBulkhead(t, 1, bulkhead.Queue(0))
		var served atomic.Int64
		c := companiontest.Connect(t, &companiontest.Server{Handle: func(context.Context) error {
			served.Add(1)
			time.Sleep(100 * ms)
			return nil
		}}, nil, append(client.DialOptions(), b.DialOptions()...)...)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.Check(t.Context(), &healthpb.HealthCheckRequest{}) })
		synctest.Wait()
		before := tokens.Balance(companiontest.Target)
		if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err == nil {
			t.Error("a second call was sent")
		} else if _, ok := full(err); !ok {
			t.Error(err)
		}
		if served.Load() != 1 || tokens.Balance(companiontest.Target) != before {
			t.Errorf("%d calls were served, and %v tokens of %v are left", served.Load(), tokens.Balance(companiontest.Target), before)
		}
		wg.Wait()
	})
}

func TestStreamsTakePlacesOnlyIfAsked(t *testing.T) {
	t.Parallel()
	for _, side := range []string{"client", "server"} {
		for _, counted := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				opts := []bulkhead.Option{bulkhead.Queue(0)}
				if counted {
					opts = append(opts, bulkhead.WithStreams())
				}
				b := newBulkhead(t, 1, opts...)
				var serve []grpc.ServerOption
				var dial []grpc.DialOption
				if side == "server" {
					serve = b.ServerOptions()
				} else {
					dial = b.DialOptions()
				}
				c := companiontest.Connect(t, &companiontest.Server{Handle: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}, serve, dial...)
				watch := func(ctx context.Context) error {
					ss, err := c.Watch(ctx, &healthpb.HealthCheckRequest{})
					if err == nil {
						_, err = ss.Recv()
					}
					return err
				}
				ctx, cancel := context.WithCancel(t.Context())
				if err := watch(ctx); err != nil {
					t.Fatal(err)
				}
				second, cancelSecond := context.WithCancel(t.Context())
				if _, ok := full(watch(second)); ok != counted {
					t.Errorf("%s, counted %v: the second stream is rejected: %v", side, counted, ok)
				}
				cancelSecond()
				cancel()
				synctest.Wait()
				third, cancelThird := context.WithCancel(t.Context())
				if err := watch(third); err != nil {
					t.Errorf("%s: the first stream has kept its place: %v", side, err)
				}
				cancelThird()
				synctest.Wait()
			})
		}
	}
}

// A write under a key that is rejected was certainly not made: the next run is not told of a possible effect.
func TestRejectedWriteHasNoEffect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.SharedKeys()))
		if err != nil {
			t.Fatal(err)
		}
		client, err := interceptors.NewClient()
		if err != nil {
			t.Fatal(err)
		}
		var takenOver []bool
		s := &companiontest.Server{Handle: func(ctx context.Context) error {
			takenOver = append(takenOver, idempotency.TakenOver(ctx))
			time.Sleep(100 * ms)
			return nil
		}}
		l := newBulkhead(t, 1, bulkhead.Queue(0))
		c := companiontest.Connect(t, s, append(server.ServerOptions(), l.ServerOptions()...), client.DialOptions()...)
		var wg sync.WaitGroup
		wg.Go(func() { _ = companiontest.Call(t.Context(), c, false) })
		synctest.Wait()
		ctx := idempotency.WithKey(t.Context(), "an order")
		if _, ok := full(companiontest.Call(ctx, c, false)); !ok {
			t.Error("the write was not rejected")
		}
		time.Sleep(time.Minute)
		if err := companiontest.Call(ctx, c, false); err != nil || len(takenOver) != 2 || takenOver[1] {
			t.Errorf("%v, told of a possible effect: %v", err, takenOver)
		}
		wg.Wait()
	})
}
