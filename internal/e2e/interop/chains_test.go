package interop_test

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc/metadata"
)

// chain is a chain caller → Go → hop → Go → leaf. The hop is of one kind.
type chain struct {
	kind   kind
	native bool
}

// leafCalls makes requests and returns how many calls reached the leaf for each. The leaf fails every call of which the
// number is a multiple of failEvery.
func (c chain) leafCalls(t *testing.T, requests, failEvery int64) float64 {
	t.Helper()
	leaf := &harness.Counter{Fail: func(n int64) error {
		if n%failEvery == 0 {
			return harness.ErrUnavailable
		}
		return nil
	}}
	last, _ := serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	addresses := []string{startGo(t, settings{}), c.kind.start(t, settings{native: c.native}), startGo(t, settings{}), last}
	f := &forwarder{dial: harness.NewClient(t, interceptors.WithPolicy(fastBackoff{})).DialOptions()}
	t.Cleanup(f.close)
	cc, err := f.conn(addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	do := harness.Idempotent(cc)
	ctx := metadata.AppendToOutgoingContext(t.Context(), nextKey, strings.Join(addresses[1:], ","))
	var wg sync.WaitGroup
	work := make(chan struct{}, requests)
	for range requests {
		work <- struct{}{}
	}
	close(work)
	for range 8 {
		wg.Go(func() {
			for range work {
				_ = do(ctx)
			}
		})
	}
	wg.Wait()
	return float64(leaf.Calls.Load()) / float64(requests)
}

// A hop in another language must be as good as Hopbound's own. It has the same effect on the leaf, whether or not its
// application has configured retries of the gRPC library.
func TestChainsWithAnotherHopCallTheLeafAsOftenAsAllGo(t *testing.T) {
	t.Parallel()
	table := newTable(t, "chains", "middle hop", "its library's retries", "leaf calls at 100 %", "leaf calls at 10 %")
	measure := func(t *testing.T, c chain) (all, tenth float64) {
		t.Helper()
		all, tenth = c.leafCalls(t, 2000, 1), c.leafCalls(t, 1000, 10)
		configured := "not configured"
		if c.native {
			configured = "configured"
		}
		table.add(c.kind.name, configured, fmt.Sprintf("%.3f", all), fmt.Sprintf("%.3f", tenth))
		return all, tenth
	}
	allGo, tenthGo := measure(t, chain{kind: kinds()[0]})
	for _, k := range kinds()[1:] {
		for _, native := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, configured=%v", k.name, native), func(t *testing.T) {
				t.Parallel()
				all, tenth := measure(t, chain{k, native})
				if math.Abs(all-allGo) > 0.01 || math.Abs(tenth-tenthGo) > 0.01 {
					t.Errorf("%.3f and %.3f calls at the leaf for each request if 100 %% and 10 %% fail, want %.3f and %.3f as in the chain of Go",
						all, tenth, allGo, tenthGo)
				}
			})
		}
	}
}
