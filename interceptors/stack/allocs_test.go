package stack_test

import (
	"context"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"github.com/hopbound/hopbound/interceptors/degrade"
	"github.com/hopbound/hopbound/interceptors/fallback"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"github.com/hopbound/hopbound/interceptors/ratelimit"
	"github.com/hopbound/hopbound/interceptors/stack"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// whole returns a client's and a server's stack with every part of the documented order. Attempts and primary calls have
// deadlines of their own if deadlines is set.
func whole(t testing.TB, deadlines bool) (dial []grpc.DialOption, serve []grpc.ServerOption) {
	t.Helper()
	attempt, reserve := time.Hour, time.Duration(0)
	if deadlines {
		attempt, reserve = 100*time.Millisecond, 50*time.Millisecond
	}
	client := must(stack.NewClient(
		stack.Fallback(must(fallback.New(fallback.Reserve(reserve), fallback.For(companiontest.Check, fallback.Default(always))))(t)),
		stack.Retry(must(interceptors.NewClient())(t)),
		stack.Breaker(must(breaker.New(breaker.SlowCalls(time.Second, 0.5, 20)))(t)),
		stack.Bulkhead(must(bulkhead.New(64))(t)),
		stack.AttemptTimeout(attempt),
		stack.RateLimit(must(ratelimit.New(ratelimit.Rate(1e9, 1e9)))(t)),
	))(t)
	server := must(stack.NewServer(
		stack.Serve(must(interceptors.NewServer())(t)),
		stack.RateLimit(must(ratelimit.New(ratelimit.Rate(1e9, 1e9)))(t)),
		stack.Degrade(must(degrade.New())(t)),
		stack.Bulkhead(must(bulkhead.New(64))(t)),
	))(t)
	return client.DialOptions(), server.ServerOptions()
}

func always(context.Context, *healthpb.HealthCheckRequest, error) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{}, nil
}

// newCall returns a call with a deadline of a second.
func newCall(t testing.TB, dial []grpc.DialOption, serve []grpc.ServerOption) func() {
	t.Helper()
	c := companiontest.Connect(t, &companiontest.Server{Handle: func(context.Context) error { return nil }}, serve, dial...)
	return func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			t.Error(err)
		}
	}
}

func allocations(t testing.TB, dial []grpc.DialOption, serve []grpc.ServerOption) float64 {
	t.Helper()
	call := newCall(t, dial, serve)
	for range 100 {
		call()
	}
	least := testing.AllocsPerRun(500, call)
	for range 4 { // other goroutines of the process may allocate
		least = min(least, testing.AllocsPerRun(500, call))
	}
	return least
}

// The whole stack makes at most 30 allocations more than gRPC alone with a deadline. Each of the two deadlines of its own
// that a call may have, of the attempt and of the primary call before a fallback, adds those of context.WithTimeout.
//
//nolint:paralleltest // it counts the allocations of the process
func TestWholeStackCostsFewAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector lets sync.Pool drop at random")
	}
	alone := allocations(t, nil, nil)
	for deadlines, most := range map[bool]float64{false: 30, true: 30 + 2*8} {
		dial, serve := whole(t, deadlines)
		got := allocations(t, dial, serve)
		t.Logf("gRPC alone: %v; with the whole stack, deadlines of its own %v: %v more", alone, deadlines, got-alone)
		if got-alone > most {
			t.Errorf("%v allocations more than gRPC alone, at most %v are allowed", got-alone, most)
		}
	}
}

func BenchmarkCall(b *testing.B) {
	dial, serve := whole(b, true)
	for name, call := range map[string]func(){"grpc": newCall(b, nil, nil), "stack": newCall(b, dial, serve)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}
