package bench_test

import (
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

// A healthy call costs at most 20 allocations more with Hopbound than without,
// client and server together.
func TestHealthyCallCostsFewAllocations(t *testing.T) {
	const calls, most = 2000, 20
	measure := func(stack bench.Stack) float64 {
		h := start(t, stack)
		return testing.AllocsPerRun(calls, func() {
			if err := h.Call(); err != nil {
				t.Error(err)
			}
		})
	}
	bare, ours := measure(bench.Bare), measure(bench.Hopbound)
	t.Logf("%v allocations without Hopbound, %v with it", bare, ours)
	if ours-bare > most {
		t.Errorf("Hopbound adds %v allocations to %v, want at most %d", ours-bare, bare, most)
	}
}
