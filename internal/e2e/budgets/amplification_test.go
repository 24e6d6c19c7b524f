package budgets_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// nativeHop serves without Hopbound, and calls next with grpc-go's retries.
func nativeHop(t testing.TB, next *harness.Node) *harness.Node {
	t.Helper()
	down := harness.Idempotent(next.Dial(harness.NativeRetry()))
	return harness.Serve(t, func(ctx context.Context) error { return down(ctx) })
}

// chain is a row of services that each call the next, with Hopbound on all of
// them, or with grpc-go's own retries on all of them.
func chain(t testing.TB, depth int, leaf harness.Handler, calls *atomic.Int64, hopbound bool) harness.Call {
	t.Helper()
	options := func() []grpc.ServerOption {
		if hopbound {
			return harness.CountCalls(calls, harness.NewServer(t).ServerOptions()...)
		}
		return harness.CountCalls(calls)
	}
	dial := func(n *harness.Node) harness.Call {
		if hopbound {
			return harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
		}
		return harness.Idempotent(n.Dial(harness.NativeRetry()))
	}
	n := harness.Serve(t, leaf, options()...)
	for range depth - 1 {
		down := dial(n)
		n = harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, options()...)
	}
	return dial(n)
}

// run makes requests one after another, and returns the calls that reached the
// leaf and any server for each of them, and the share that succeeded.
func run(t *testing.T, depth, requests int, fail func(int64) error, hopbound bool) (leafCalls, calls, success float64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		leaf, total := &harness.Counter{Fail: fail}, &atomic.Int64{}
		do := chain(t, depth, leaf.Handle, total, hopbound)
		succeeded := 0
		for range requests {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if do(ctx) == nil {
				succeeded++
			}
			cancel()
		}
		n := float64(requests)
		leafCalls, calls, success = float64(leaf.Calls.Load())/n, float64(total.Load())/n, float64(succeeded)/n
	})
	t.Logf("depth %d, hopbound %v: %.3f leaf calls and %.3f calls a request, success %.4f", depth, hopbound, leafCalls, calls, success)
	return leafCalls, calls, success
}

// share fails a share of the calls, at random but always the same.
func share(of float64) func(int64) error {
	rng := rand.New(rand.NewPCG(1, 2))
	return func(int64) error {
		if rng.Float64() < of {
			return harness.ErrUnavailable
		}
		return nil
	}
}

func TestOutageIsNotAmplifiedAtAnyDepth(t *testing.T) {
	t.Parallel()
	for depth := 1; depth <= 6; depth++ {
		t.Run(fmt.Sprint("depth ", depth), func(t *testing.T) {
			t.Parallel()
			leaf, calls, _ := run(t, depth, 2000, harness.AlwaysFail(harness.ErrUnavailable), true)
			if leaf > 1.02 || calls > float64(depth)*1.02 {
				t.Errorf("%.3f leaf calls and %.3f calls a request, want at most 1.02 and %.2f", leaf, calls, float64(depth)*1.02)
			}
			leaf, _, _ = run(t, depth, 2, harness.AlwaysFail(harness.ErrUnavailable), false)
			if want := math.Pow(3, float64(depth)); leaf != want {
				t.Errorf("grpc-go's own retries make %v leaf calls a request, want %v", leaf, want)
			}
		})
	}
}

func TestSomeFailuresAreRepeatedWithinTheBudget(t *testing.T) {
	t.Parallel()
	t.Run("10 % of calls fail", func(t *testing.T) {
		t.Parallel()
		leaf, _, success := run(t, 5, 4000, share(0.1), true)
		if success < 0.995 || leaf > 1.15 {
			t.Errorf("success %.4f with %.3f leaf calls a request, want 0.995 with at most 1.15", success, leaf)
		}
	})
	t.Run("half of the calls fail", func(t *testing.T) {
		t.Parallel()
		if leaf, _, _ := run(t, 5, 4000, share(0.5), true); leaf > 1.20 {
			t.Errorf("%.3f leaf calls a request, want at most 1.20", leaf)
		}
	})
}

// A hop in the middle that has only grpc-go's retries is a blind spot: its
// callers' tokens do not pass it. But it obeys the marks from below, and what it
// makes of a failure itself is its own factor of three, once.
func TestNativeHopInTheMiddleMultipliesOnlyItsOwnCalls(t *testing.T) {
	t.Parallel()
	for position := 1; position <= 4; position++ {
		t.Run(fmt.Sprint("as hop ", position, " of 5"), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
				n := harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
				for i := 4; i >= 1; i-- {
					if i == position {
						n = nativeHop(t, n)
					} else {
						n = harness.Hop(t, n)
					}
				}
				do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
				const requests = 1000
				for range requests {
					if do(t.Context()) == nil {
						t.Fatal("a request succeeded")
					}
				}
				calls := float64(leaf.Calls.Load()) / requests
				t.Logf("%.3f leaf calls a request", calls)
				most := 1.05
				if position == 4 { // next to the leaf, whose failure nobody has marked yet
					most = 3 * 1.05
				}
				if calls > most {
					t.Errorf("%.3f leaf calls a request, want at most %.2f", calls, most)
				}
			})
		})
	}
}

// A hop without Hopbound keeps the tree bound if it copies one trailer, as the first
// lines of docs/wire.md say. With full budgets, one request is three calls of a leaf
// that is down.
func TestHopWithoutHopboundThatCopiesTheMarkAmplifiesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		copies bool
		opts   []grpc.DialOption // of the hop's client
		want   int64             // calls of the leaf
	}{
		"copies, no retries":            {true, []grpc.DialOption{grpc.WithDisableRetry()}, 3},
		"copies, native retries":        {true, []grpc.DialOption{harness.NativeRetry()}, 3},
		"does not copy, no retries":     {false, []grpc.DialOption{grpc.WithDisableRetry()}, 6}, // the hop below has a burst of 3
		"does not copy, native retries": {false, []grpc.DialOption{harness.NativeRetry()}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
				below := harness.Hop(t, harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...))
				cc := below.Dial(tc.opts...)
				plain := harness.NewNode(t)
				if tc.copies {
					testv1.RegisterTestServiceServer(plain.Server, plainHop{orders: ordersClient{testv1.NewTestServiceClient(cc)}})
				} else {
					testv1.RegisterTestServiceServer(plain.Server, harness.Service{Handle: func(ctx context.Context) error { return harness.Idempotent(cc)(ctx) }})
				}
				plain.Start()
				do := harness.Idempotent(harness.Hop(t, plain).Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
				if do(t.Context()) == nil || leaf.Calls.Load() != tc.want {
					t.Errorf("%d calls of the leaf, want %d", leaf.Calls.Load(), tc.want)
				}
			})
		})
	}
}

func TestNativeCallerDoesNotRetryAMarkedFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		n := harness.Hop(t, harness.Serve(t, leaf.Handle), interceptors.WithPolicy(interceptors.MethodPolicies{"": {
			Retry: &interceptors.RetryPolicy{MaxAttempts: 2},
		}}))
		do := harness.Idempotent(n.Dial(harness.NativeRetry()))
		if do(t.Context()) == nil {
			t.Fatal("the request succeeded")
		}
		if calls := leaf.Calls.Load(); calls != 2 {
			t.Errorf("a fresh hop with two attempts called the leaf %d times, want 2", calls)
		}
		const requests = 1000
		leaf.Calls.Store(0)
		for range requests {
			_ = do(t.Context())
		}
		if calls := float64(leaf.Calls.Load()) / requests; calls > 1.05 {
			t.Errorf("%.3f leaf calls a request, want at most 1.05", calls)
		}
	})
}
