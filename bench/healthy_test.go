package bench_test

import (
	"math"
	"testing"

	"github.com/hopbound/hopbound/bench"
)

func start(tb testing.TB, stack bench.Stack) *bench.Healthy {
	tb.Helper()
	h, err := bench.NewHealthy(stack)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(h.Close)
	if err := h.Call(); err != nil {
		tb.Fatal(err)
	}
	return h
}

func BenchmarkHealthyCall(b *testing.B) {
	b.Run("grpc", func(b *testing.B) { start(b, bench.Bare).Run(b) })
	b.Run("header", func(b *testing.B) { start(b, bench.Header).Run(b) })
	b.Run("hopbound", func(b *testing.B) { start(b, bench.Hopbound).Run(b) })
}

// A healthy call costs at most 18 allocations more with Hopbound than without,
// client and server together.
func TestHealthyCallCostsFewAllocations(t *testing.T) {
	const most = 18
	bare, ours := allocations(t, bench.Bare), allocations(t, bench.Hopbound)
	t.Logf("%v allocations without Hopbound, %v with it", bare, ours)
	if ours-bare > most {
		t.Errorf("Hopbound adds %v allocations to %v, want at most %d", ours-bare, bare, most)
	}
}

// With an SDK that records one trace in a hundred, Hopbound with all its features allocates less than
// otelgrpc, which only traces.
func TestTracesAllocateLessThanOtelgrpcs(t *testing.T) {
	theirs, ours := allocations(t, bench.Otelgrpc), allocations(t, bench.Traced)
	t.Logf("%v allocations with otelgrpc, %v with Hopbound", theirs, ours)
	if ours >= theirs {
		t.Errorf("Hopbound makes %v allocations, otelgrpc %v", ours, theirs)
	}
}

// allocations returns how many allocations a call makes on average: the least of five averages, since
// gRPC makes more when its goroutines happen to hand over more often, and never fewer.
func allocations(t *testing.T, stack bench.Stack) float64 {
	t.Helper()
	if raceDetector {
		t.Skip("with the race detector, sync.Pool drops what it holds at random")
	}
	h := start(t, stack)
	least := math.Inf(1)
	for range 5 {
		least = min(least, testing.AllocsPerRun(500, func() {
			if err := h.Call(); err != nil {
				t.Error(err)
			}
		}))
	}
	return least
}
