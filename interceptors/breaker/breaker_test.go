package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	target = companiontest.Target
	check  = companiontest.Check
	watch  = companiontest.Watch
)

func newBreaker(t testing.TB, opts ...breaker.Option) *breaker.Breaker {
	t.Helper()
	b, err := breaker.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// refused reports whether an error is that of an open breaker, and how long it says to wait.
func refused(err error) (wait time.Duration, ok bool) {
	return companiontest.Rejected(err, codes.Unavailable, interceptors.ReasonBreakerOpen)
}

// step is one call of a table test: what the leaf does with it, and what is expected.
type step struct {
	after   time.Duration // before the call
	took    time.Duration
	code    codes.Code
	refused bool
	state   breaker.State // after the call
}

func TestStatesOfABreaker(t *testing.T) {
	t.Parallel()
	const ok, down, open, closed, half = codes.OK, codes.Unavailable, breaker.Open, breaker.Closed, breaker.HalfOpen
	fail := func(n int, state breaker.State) []step { return slices.Repeat([]step{{code: down, state: state}}, n) }
	good := func(n int) []step { return slices.Repeat([]step{{code: ok, state: closed}}, n) }
	for name, tc := range map[string]struct {
		opts  []breaker.Option
		steps []step
	}{
		"it opens at the fifth failure in a row": {nil, append(fail(4, closed), step{code: down, state: open}, step{refused: true, state: open})},
		"a success between them counts anew":     {nil, slices.Concat(fail(4, closed), good(1), fail(4, closed))},
		"codes of clients are no failures":       {nil, slices.Repeat([]step{{code: codes.NotFound, state: closed}}, 50)},
		"cancelled calls do not count": {
			[]breaker.Option{breaker.ConsecutiveFailures(2)},
			[]step{{code: down, state: closed}, {code: codes.Canceled, state: closed}, {code: down, state: open}},
		},
		"it opens at half of twenty calls": {
			[]breaker.Option{breaker.ConsecutiveFailures(0)},
			slices.Concat(good(10), fail(9, closed), []step{{code: down, state: open}}),
		},
		"failures leave the window": {
			[]breaker.Option{breaker.ConsecutiveFailures(0), breaker.FailureRate(0.5, 4)},
			slices.Concat(fail(3, closed), []step{{after: 11 * time.Second, code: down, state: closed}, {code: down, state: closed}}),
		},
		"a probe closes it": {
			[]breaker.Option{breaker.ConsecutiveFailures(1)},
			[]step{{code: down, state: open}, {after: 4999 * time.Millisecond, refused: true, state: open}, {after: 2 * time.Millisecond, code: ok, state: closed}},
		},
		"a probe that fails opens it again": {
			[]breaker.Option{breaker.ConsecutiveFailures(1), breaker.OpenFor(time.Second)},
			[]step{{code: down, state: open}, {after: 1001 * time.Millisecond, code: down, state: open}, {after: 999 * time.Millisecond, refused: true, state: open}},
		},
		"three probes must succeed": {
			[]breaker.Option{breaker.ConsecutiveFailures(1), breaker.Probes(3)},
			[]step{{code: down, state: open}, {after: 6 * time.Second, code: ok, state: half}, {code: ok, state: half}, {code: ok, state: closed}},
		},
		"slow calls open it": {
			[]breaker.Option{breaker.SlowCalls(time.Second, 0.5, 4)},
			[]step{{code: ok, state: closed}, {code: ok, state: closed}, {took: 2 * time.Second, code: ok, state: closed}, {took: 2 * time.Second, code: ok, state: open}, {refused: true, state: open}},
		},
		"a slow probe opens it again": {
			[]breaker.Option{breaker.SlowCalls(time.Second, 1, 1)},
			[]step{{took: 2 * time.Second, code: ok, state: open}, {after: 6 * time.Second, took: 2 * time.Second, code: ok, state: open}, {refused: true, state: open}},
		},
		"given codes are the failures": {
			[]breaker.Option{breaker.ConsecutiveFailures(1), breaker.Codes(codes.Aborted)},
			[]step{{code: down, state: closed}, {code: codes.Aborted, state: open}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var now step
				l := &companiontest.Server{Handle: func(context.Context) error {
					time.Sleep(now.took)
					return status.Error(now.code, "")
				}}
				b := newBreaker(t, tc.opts...)
				c := companiontest.Connect(t, l, nil, b.DialOptions()...)
				for i, s := range tc.steps {
					time.Sleep(s.after)
					now = s
					before := l.Calls.Load()
					_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{})
					if _, no := refused(err); no != s.refused || l.Calls.Load()-before != map[bool]int64{true: 0, false: 1}[s.refused] {
						t.Errorf("step %d: %v, %d calls", i, err, l.Calls.Load()-before)
					}
					if got := b.State(target, check); got != s.state {
						t.Errorf("step %d: it is %s, want %s", i, got, s.state)
					}
				}
			})
		})
	}
}

// A refused attempt says when the next probe is, costs no token, is not retried, and no hop above retries it.
func TestRefusalCostsNothingAndIsMarked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &companiontest.Server{Handle: func(context.Context) error { return status.Error(codes.Unavailable, "down") }}
		tokens := budget.New(budget.MinPerSecond(0))
		client := func(opts ...interceptors.ClientOption) []grpc.DialOption {
			c, err := interceptors.NewClient(append(opts, interceptors.WithPolicy(interceptors.MethodPolicies{"": {
				Retry: &interceptors.RetryPolicy{MaxAttempts: 3},
			}}))...)
			if err != nil {
				t.Fatal(err)
			}
			return c.DialOptions()
		}
		b := newBreaker(t, breaker.ConsecutiveFailures(2))
		down := companiontest.Connect(t, l, nil, append(client(interceptors.WithBudget(tokens)), b.DialOptions()...)...)
		server, err := interceptors.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		hop := &companiontest.Server{Handle: func(ctx context.Context) error {
			_, err := down.Check(ctx, &healthpb.HealthCheckRequest{})
			return err
		}}
		up := companiontest.Connect(t, hop, server.ServerOptions(), client()...)
		if _, err := up.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable || l.Calls.Load() != 2 || hop.Calls.Load() != 1 {
			t.Errorf("%v after %d attempts and %d calls", err, l.Calls.Load(), hop.Calls.Load())
		}
		before := tokens.Balance(target)
		time.Sleep(time.Second)
		_, err = up.Check(t.Context(), &healthpb.HealthCheckRequest{})
		if wait, ok := refused(err); !ok || wait < 3*time.Second || wait > 4*time.Second {
			t.Errorf("the user is told %v, %v", wait, err)
		}
		if l.Calls.Load() != 2 || hop.Calls.Load() != 2 || tokens.Balance(target) != before {
			t.Errorf("%d attempts, %d calls, and %v tokens of %v", l.Calls.Load(), hop.Calls.Load(), tokens.Balance(target), before)
		}
	})
}

// A failure that comes from below the target is not the target's.
func TestMarkedFailuresDoNotCount(t *testing.T) {
	t.Parallel()
	for _, stream := range []bool{false, true} {
		l := &companiontest.Server{Handle: func(ctx context.Context) error {
			return interceptors.DoNotRetry(ctx, status.Error(codes.Unavailable, "a hop below is down"))
		}}
		b := newBreaker(t, breaker.ConsecutiveFailures(1))
		c := companiontest.Connect(t, l, nil, b.DialOptions()...)
		for range 5 {
			_ = companiontest.Call(t.Context(), c, stream)
		}
		if l.Calls.Load() != 5 {
			t.Errorf("stream %v: %d calls", stream, l.Calls.Load())
		}
	}
}

func TestStreamsCountWhenTheyEnd(t *testing.T) {
	t.Parallel()
	l := &companiontest.Server{Handle: func(context.Context) error { return status.Error(codes.Unavailable, "down") }}
	b := newBreaker(t, breaker.ConsecutiveFailures(3))
	c := companiontest.Connect(t, l, nil, b.DialOptions()...)
	for range 3 {
		if err := companiontest.Call(t.Context(), c, true); status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
	}
	if _, ok := refused(companiontest.Call(t.Context(), c, true)); !ok || b.State(target, watch) != breaker.Open || b.State(target, check) != breaker.Closed {
		t.Errorf("Watch is %s, Check is %s", b.State(target, watch), b.State(target, check))
	}
}

// A probe that is a stream which nobody reads to its end gives its place back when its context ends.
func TestAbandonedProbeGivesItsPlaceBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		healthy := false
		l := &companiontest.Server{Handle: func(ctx context.Context) error {
			if healthy {
				<-ctx.Done()
			}
			return status.Error(codes.Unavailable, "down")
		}}
		b := newBreaker(t, breaker.ConsecutiveFailures(1))
		c := companiontest.Connect(t, l, nil, b.DialOptions()...)
		_ = companiontest.Call(t.Context(), c, true)
		time.Sleep(6 * time.Second)
		healthy = true
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := c.Watch(ctx, &healthpb.HealthCheckRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, ok := refused(companiontest.Call(t.Context(), c, true)); !ok {
			t.Error("there is a second probe")
		}
		cancel()
		synctest.Wait()
		healthy = false
		if err := companiontest.Call(t.Context(), c, true); status.Convert(err).Message() != "down" {
			t.Errorf("the place of the probe is lost: %v", err)
		}
	})
}

func TestBreakersArePerTargetOrPerMethod(t *testing.T) {
	t.Parallel()
	for _, perTarget := range []bool{false, true} {
		opts := []breaker.Option{breaker.ConsecutiveFailures(1)}
		if perTarget {
			opts = append(opts, breaker.PerTarget())
		}
		l := &companiontest.Server{Handle: func(context.Context) error { return status.Error(codes.Unavailable, "down") }}
		c := companiontest.Connect(t, l, nil, newBreaker(t, opts...).DialOptions()...)
		_ = companiontest.Call(t.Context(), c, false)
		if _, no := refused(companiontest.Call(t.Context(), c, true)); no != perTarget {
			t.Errorf("per target %v: the other method is refused: %v", perTarget, no)
		}
	}
}

func TestChangesAreReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		down := true
		l := &companiontest.Server{Handle: func(context.Context) error {
			if down {
				return status.Error(codes.Unavailable, "down")
			}
			return nil
		}}
		b := newBreaker(t, breaker.ConsecutiveFailures(1), breaker.OnChange(func(target, method string, from, to breaker.State) {
			changes = append(changes, fmt.Sprint(target, method, " ", from, " to ", to))
		}))
		c := companiontest.Connect(t, l, nil, b.DialOptions()...)
		_ = companiontest.Call(t.Context(), c, false)
		time.Sleep(6 * time.Second)
		down = false
		_ = companiontest.Call(t.Context(), c, false)
		want := []string{target + check + " closed to open", target + check + " open to half-open", target + check + " half-open to closed"}
		if !slices.Equal(changes, want) {
			t.Errorf("changes %q", changes)
		}
	})
}

// Whatever happens, an open breaker sends nothing, and a half-open one sends no more than its probes.
func TestOpenBreakersSendNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		probes := rapid.Int64Range(1, 3).Draw(r, "probes")
		synctest.Test(t, func(t *testing.T) {
			var probing atomic.Int64 // attempts sent since the breaker became half-open
			b := newBreaker(t, breaker.ConsecutiveFailures(2), breaker.Probes(int(probes)), breaker.OpenFor(time.Second),
				breaker.OnChange(func(string, string, breaker.State, breaker.State) { probing.Store(0) }))
			var wg sync.WaitGroup
			for range rapid.IntRange(1, 60).Draw(r, "calls") {
				time.Sleep(time.Duration(rapid.IntRange(0, 700).Draw(r, "pause")) * time.Millisecond)
				took := time.Duration(rapid.IntRange(0, 3000).Draw(r, "took")) * time.Millisecond
				failed := rapid.Bool().Draw(r, "failed")
				before, sent := b.State("", check), false
				wg.Go(func() {
					_ = b.UnaryInterceptor()(t.Context(), check, nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
						sent = true
						if before == breaker.HalfOpen {
							probing.Add(1)
						}
						time.Sleep(took)
						if failed {
							return status.Error(codes.Unavailable, "down")
						}
						return nil
					})
				})
				synctest.Wait()
				if sent && before == breaker.Open {
					t.Error("an open breaker has sent a call")
				}
				if probing.Load() > probes {
					t.Errorf("%d probes, at most %d are allowed", probing.Load(), probes)
				}
			}
			wg.Wait()
		})
	})
}

func TestInvalidOptionsAreAllReported(t *testing.T) {
	t.Parallel()
	_, err := breaker.New(breaker.ConsecutiveFailures(-1), breaker.FailureRate(2, 1), breaker.SlowCalls(0, 0.5, 1), breaker.Window(0),
		breaker.OpenFor(0), breaker.Probes(0), breaker.Codes(), breaker.WithMeterProvider(nil), breaker.OnChange(nil), nil)
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) || len(all.Unwrap()) != 10 {
		t.Errorf("got %v", err)
	}
}

func BenchmarkClosed(b *testing.B) {
	set := newBreaker(b)
	next := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	interceptor := set.UnaryInterceptor()
	b.ReportAllocs()
	for b.Loop() {
		_ = interceptor(b.Context(), check, nil, nil, nil, next)
	}
}
