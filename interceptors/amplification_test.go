package interceptors_test

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
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// nativeRetries turns on grpc-go's own retries: three attempts on UNAVAILABLE.
const nativeRetries = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["UNAVAILABLE"]}}]}`

func native() grpc.DialOption { return grpc.WithDefaultServiceConfig(nativeRetries) }

// nativeHop serves without Hopbound, and calls next with grpc-go's retries.
func nativeHop(t testing.TB, next *node) *node {
	t.Helper()
	down := idempotent(next.dial(native()))
	return serve(t, func(ctx context.Context) error { return down(ctx) })
}

// counted counts the calls that reach a node, whether they are counted there or
// in the handler.
func counted(calls *atomic.Int64, opts ...grpc.ServerOption) []grpc.ServerOption {
	return append(opts, grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			calls.Add(1)
			return h(ctx, req)
		}))
}

// chain is a row of services that each call the next, with Hopbound on all of
// them, or with grpc-go's own retries on all of them.
func chain(t testing.TB, depth int, leaf handler, calls *atomic.Int64, hopbound bool) call {
	t.Helper()
	options := func() []grpc.ServerOption {
		if hopbound {
			return counted(calls, newServer(t).ServerOptions()...)
		}
		return counted(calls)
	}
	dial := func(n *node) call {
		if hopbound {
			return idempotent(n.dial(newClient(t, quick()).DialOptions()...))
		}
		return idempotent(n.dial(native()))
	}
	n := serve(t, leaf, options()...)
	for range depth - 1 {
		down := dial(n)
		n = serve(t, func(ctx context.Context) error { return down(ctx) }, options()...)
	}
	return dial(n)
}

// run makes requests one after another, and returns the calls that reached the
// leaf and any server for each of them, and the share that succeeded.
func run(t *testing.T, depth, requests int, fail func(int64) error, hopbound bool) (leafCalls, calls, success float64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		leaf, total := &counter{fail: fail}, &atomic.Int64{}
		do := chain(t, depth, leaf.handle, total, hopbound)
		succeeded := 0
		for range requests {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			if do(ctx) == nil {
				succeeded++
			}
			cancel()
		}
		n := float64(requests)
		leafCalls, calls, success = float64(leaf.calls.Load())/n, float64(total.Load())/n, float64(succeeded)/n
	})
	t.Logf("depth %d, hopbound %v: %.3f leaf calls and %.3f calls a request, success %.4f", depth, hopbound, leafCalls, calls, success)
	return leafCalls, calls, success
}

// share fails a share of the calls, at random but always the same.
func share(of float64) func(int64) error {
	rng := rand.New(rand.NewPCG(1, 2))
	return func(int64) error {
		if rng.Float64() < of {
			return errUnavailable
		}
		return nil
	}
}

func TestOutageIsNotAmplifiedAtAnyDepth(t *testing.T) {
	t.Parallel()
	for depth := 1; depth <= 6; depth++ {
		t.Run(fmt.Sprint("depth ", depth), func(t *testing.T) {
			t.Parallel()
			leaf, calls, _ := run(t, depth, 2000, always(errUnavailable), true)
			if leaf > 1.02 || calls > float64(depth)*1.02 {
				t.Errorf("%.3f leaf calls and %.3f calls a request, want at most 1.02 and %.2f", leaf, calls, float64(depth)*1.02)
			}
			leaf, _, _ = run(t, depth, 2, always(errUnavailable), false)
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
				leaf := &counter{fail: always(errUnavailable)}
				n := serve(t, leaf.handle, newServer(t).ServerOptions()...)
				for i := 4; i >= 1; i-- {
					if i == position {
						n = nativeHop(t, n)
					} else {
						n = hop(t, n)
					}
				}
				do := idempotent(n.dial(newClient(t, quick()).DialOptions()...))
				const requests = 1000
				for range requests {
					if do(t.Context()) == nil {
						t.Fatal("a request succeeded")
					}
				}
				calls := float64(leaf.calls.Load()) / requests
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
func TestHopWithoutHopboundThatCopiesTheMarkMultipliesNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		copies bool
		opts   []grpc.DialOption // of the hop's client
		want   int64             // calls of the leaf
	}{
		"copies, no retries":            {true, []grpc.DialOption{grpc.WithDisableRetry()}, 3},
		"copies, native retries":        {true, []grpc.DialOption{native()}, 3},
		"does not copy, no retries":     {false, []grpc.DialOption{grpc.WithDisableRetry()}, 6}, // the hop below has a burst of 3
		"does not copy, native retries": {false, []grpc.DialOption{native()}, 6},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				leaf := &counter{fail: always(errUnavailable)}
				below := hop(t, serve(t, leaf.handle, newServer(t).ServerOptions()...))
				cc := below.dial(tc.opts...)
				plain := newNode(t)
				if tc.copies {
					testv1.RegisterTestServiceServer(plain.server, plainHop{orders: ordersClient{testv1.NewTestServiceClient(cc)}})
				} else {
					testv1.RegisterTestServiceServer(plain.server, service{handle: func(ctx context.Context) error { return idempotent(cc)(ctx) }})
				}
				plain.start()
				do := idempotent(hop(t, plain).dial(newClient(t, quick()).DialOptions()...))
				if do(t.Context()) == nil || leaf.calls.Load() != tc.want {
					t.Errorf("%d calls of the leaf, want %d", leaf.calls.Load(), tc.want)
				}
			})
		})
	}
}

func TestNativeCallerDoesNotMultiplyWhatAHopHasGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &counter{fail: always(errUnavailable)}
		n := hop(t, serve(t, leaf.handle), interceptors.WithPolicy(interceptors.MethodPolicies{"": {
			Retry: &interceptors.RetryPolicy{MaxAttempts: 2},
		}}))
		do := idempotent(n.dial(native()))
		if do(t.Context()) == nil {
			t.Fatal("the request succeeded")
		}
		if calls := leaf.calls.Load(); calls != 2 {
			t.Errorf("a fresh hop with two attempts called the leaf %d times, want 2", calls)
		}
		const requests = 1000
		leaf.calls.Store(0)
		for range requests {
			_ = do(t.Context())
		}
		if calls := float64(leaf.calls.Load()) / requests; calls > 1.05 {
			t.Errorf("%.3f leaf calls a request, want at most 1.05", calls)
		}
	})
}
