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
	native bool // see settings
	copies bool
}

// leafCalls makes requests and returns how many calls reached the leaf for each. The leaf fails every call of which the
// number is a multiple of failEvery. All hops have the settings s.
func (c chain) leafCalls(t *testing.T, requests, failEvery int64, s settings) float64 {
	t.Helper()
	middle := s
	middle.native, middle.copies = c.native, c.copies
	leaf := &harness.Counter{Fail: func(n int64) error {
		if n%failEvery == 0 {
			return harness.ErrUnavailable
		}
		return nil
	}}
	last, _ := serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	addresses := []string{startGo(t, s), c.kind.start(t, middle), startGo(t, s), last}
	f := &forwarder{dial: harness.NewClient(t, interceptors.WithBudget(s.budget(t)), interceptors.WithPolicy(fastBackoff{})).DialOptions()}
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

// measured are calls at the leaf for each request. In bare, all calls fail, and the request budgets alone limit the attempts:
// the target budgets, which otherwise hide what a hop does with its tokens and marks, are as good as infinite.
type measured struct{ all, tenth, bare float64 }

func (c chain) measure(t *testing.T) measured {
	t.Helper()
	burst := 1_000_000
	return measured{
		all:   c.leafCalls(t, 2000, 1, settings{}),
		tenth: c.leafCalls(t, 1000, 10, settings{}),
		bare:  c.leafCalls(t, 100, 1, settings{Burst: &burst}),
	}
}

// near says whether the numbers differ by 0.01 at most.
func (m measured) near(other measured) bool {
	return math.Abs(m.all-other.all) <= 0.01 && math.Abs(m.tenth-other.tenth) <= 0.01 && math.Abs(m.bare-other.bare) <= 0.01
}

func (m measured) cells() (cells []string) {
	for _, v := range []float64{m.all, m.tenth, m.bare} {
		cells = append(cells, fmt.Sprintf("%.3f", v))
	}
	return cells
}

// cells are those of the table that name the chain.
func (c chain) cells() []string {
	name, retries := c.kind.name, "not configured"
	if c.copies {
		name += " that only copies marks"
	}
	if c.native {
		retries = "configured"
	}
	return []string{name, retries}
}

// A hop in another language must be as good as Hopbound's own. It has the same effect on the leaf, whether or not its
// application has configured retries of the gRPC library. Even a service that only copies marks has it here, because the
// hop below marks what it gives up.
func TestChainsWithAnotherHopCallTheLeafAsOftenAsAllGo(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("the race detector sees the same hops in the exchanges")
	}
	table := newTable(t, "chains", 2, "middle hop", "its library's retries", "leaf calls at 100 %", "leaf calls at 10 %",
		"leaf calls at 100 % with request budgets only")
	measure := func(t *testing.T, c chain) measured {
		t.Helper()
		m := c.measure(t)
		table.add(append(c.cells(), m.cells()...)...)
		return m
	}
	allGo := measure(t, chain{kind: kinds()[0]})
	for _, k := range kinds()[1:] {
		for _, c := range []chain{{kind: k}, {kind: k, native: true}, {kind: k, native: true, copies: true}} {
			if c.native && k.name == "connect-go" { // which has no retries
				continue
			}
			t.Run(strings.Join(c.cells(), ", "), func(t *testing.T) {
				t.Parallel()
				if m := measure(t, c); !m.near(allGo) {
					t.Errorf("calls at the leaf for each request: %v, want %v as in the chain of Go", m, allGo)
				}
			})
		}
	}
}
