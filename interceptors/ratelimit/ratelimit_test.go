package ratelimit_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"github.com/hopbound/hopbound/interceptors/ratelimit"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ms = time.Millisecond

func newLimiter(t testing.TB, opts ...ratelimit.Option) *ratelimit.Limiter {
	t.Helper()
	l, err := ratelimit.New(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// limited reports whether an error is that of a rate limit, and how long it says to wait.
func limited(err error) (wait time.Duration, ok bool) {
	return companiontest.Rejected(err, codes.ResourceExhausted, interceptors.ReasonRateLimited)
}

// serve makes a call through a server's interceptor.
func serve(ctx context.Context, l *ratelimit.Limiter) error {
	_, err := l.UnaryServerInterceptor()(ctx, nil, &grpc.UnaryServerInfo{}, func(context.Context, any) (any, error) { return nil, nil }) //nolint:nilnil // nobody looks at it
	return err
}

type callerKey struct{}

func caller(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}

func retryInfo(d time.Duration) *errdetails.RetryInfo {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(d)}
}

// step is one call of a table test: when it is made, by whom, with which deadline, and what is expected.
type step struct {
	after   time.Duration // the call before it has ended
	who     string
	timeout time.Duration
	waits   time.Duration
	refused time.Duration // it is refused with this time; 0 if it is accepted
}

func TestCallsWaitOrAreRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts  []ratelimit.Option
		steps []step
	}{
		"a burst is accepted at once, and then each call waits for its token": {
			[]ratelimit.Option{ratelimit.Rate(10, 2)}, []step{{}, {}, {waits: 100 * ms}, {waits: 100 * ms}, {after: time.Second}},
		},
		"a call whose deadline comes first is refused at once, and takes no token": {
			[]ratelimit.Option{ratelimit.Rate(10, 1)}, []step{{}, {timeout: 99 * ms, refused: 100 * ms}, {timeout: 101 * ms, waits: 100 * ms}},
		},
		"no call waits for longer than allowed": {
			[]ratelimit.Option{ratelimit.Rate(10, 1), ratelimit.MaxWait(50 * ms)}, []step{{}, {refused: 100 * ms}, {after: 60 * ms, waits: 40 * ms}},
		},
		"no call waits at all": {
			[]ratelimit.Option{ratelimit.Rate(10, 1), ratelimit.MaxWait(0)}, []step{{}, {refused: 100 * ms}, {after: 100 * ms}},
		},
		"a caller uses up only its own tokens": {
			[]ratelimit.Option{ratelimit.Rate(1000, 100), ratelimit.PerCaller(1, 1, caller), ratelimit.MaxWait(0)},
			[]step{{who: "a"}, {who: "a", refused: time.Second}, {who: "b"}, {who: "b", refused: time.Second}},
		},
		"a call that its caller's limit refuses takes no token of all": {
			[]ratelimit.Option{ratelimit.Rate(1, 2), ratelimit.PerCaller(1, 1, caller), ratelimit.MaxWait(0)},
			[]step{{who: "a"}, {who: "a", refused: time.Second}, {who: "b"}},
		},
		"a forgotten caller begins anew": {
			[]ratelimit.Option{ratelimit.PerCaller(1, 1, caller), ratelimit.MaxCallers(2), ratelimit.MaxWait(0)},
			[]step{{who: "a"}, {who: "b"}, {who: "c"}, {who: "a"}, {who: "c", refused: time.Second}},
		},
		"without a rate nothing is limited": {nil, slices.Repeat([]step{{}}, 100)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLimiter(t, tc.opts...)
				for i, s := range tc.steps {
					time.Sleep(s.after)
					ctx := context.WithValue(t.Context(), callerKey{}, s.who)
					cancel := func() {}
					if s.timeout > 0 {
						ctx, cancel = context.WithTimeout(ctx, s.timeout)
					}
					began := time.Now()
					err := serve(ctx, l)
					cancel()
					wait, refused := limited(err)
					if waited := time.Since(began); waited != s.waits || refused != (s.refused > 0) || wait != s.refused || err != nil && !refused {
						t.Errorf("call %d waited for %v and ended with %v", i, waited, err)
					}
				}
			})
		})
	}
}

// A call that is cancelled while it waits gives its token back.
func TestCancelledCallGivesItsTokenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(t, ratelimit.Rate(1, 1))
		_ = serve(t.Context(), l)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := serve(ctx, l); status.Code(err) != codes.Canceled {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		began := time.Now()
		if err := serve(t.Context(), l); err != nil || time.Since(began) != time.Second {
			t.Errorf("the next call waited for %v: %v", time.Since(began), err)
		}
	})
}

// A server's rejection tells its caller when to come again; unary calls and streams share a rate.
func TestServerSendsPushback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server, err := interceptors.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		h := &companiontest.Server{Handle: func(context.Context) error { return nil }}
		c := companiontest.Connect(t, h, append(server.ServerOptions(), newLimiter(t, ratelimit.Rate(2, 1), ratelimit.MaxWait(0)).ServerOptions()...))
		_ = companiontest.Call(t.Context(), c, false)
		for _, stream := range []bool{false, true} {
			var trailer metadata.MD
			wait, ok := limited(companiontest.Call(t.Context(), c, stream, grpc.Trailer(&trailer)))
			if pushback := trailer.Get("grpc-retry-pushback-ms"); !ok || wait != 500*ms || !slices.Equal(pushback, []string{"500"}) {
				t.Errorf("stream %v: told to wait for %v, %v, with the pushback %q", stream, wait, ok, pushback)
			}
		}
		if h.Calls.Load() != 1 {
			t.Errorf("%d calls were served", h.Calls.Load())
		}
	})
}

// After a target has asked for time, a client sends it nothing for so long: calls that can wait do, and others are
// refused, without a token and without a retry.
func TestClientSlowsDownWhenATargetAsks(t *testing.T) {
	t.Parallel()
	for _, stream := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			asks := true
			h := &companiontest.Server{Handle: func(context.Context) error {
				if !asks {
					return nil
				}
				st, _ := status.New(codes.ResourceExhausted, "too much").WithDetails(retryInfo(2 * time.Second))
				return st.Err()
			}}
			tokens := budget.New(budget.MinPerSecond(0))
			client, err := interceptors.NewClient(interceptors.WithBudget(tokens), interceptors.WithPolicy(interceptors.MethodPolicies{"": {
				Retry: &interceptors.RetryPolicy{MaxAttempts: 3},
			}}))
			if err != nil {
				t.Fatal(err)
			}
			c := companiontest.Connect(t, h, nil, append(client.DialOptions(), newLimiter(t, ratelimit.MaxWait(time.Minute)).DialOptions()...)...)
			if err := companiontest.Call(t.Context(), c, stream); status.Convert(err).Message() != "too much" {
				t.Fatal(err)
			}
			asks = false
			before := tokens.Balance(companiontest.Target)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if wait, ok := limited(companiontest.Call(ctx, c, stream)); !ok || wait != 2*time.Second {
				t.Errorf("a call with a second was told to wait for %v, %v", wait, ok)
			}
			if h.Calls.Load() != 1 || tokens.Balance(companiontest.Target) != before {
				t.Errorf("%d calls were sent, and %v tokens of %v are left", h.Calls.Load(), tokens.Balance(companiontest.Target), before)
			}
			began := time.Now()
			if err := companiontest.Call(t.Context(), c, stream); err != nil || time.Since(began) != 2*time.Second {
				t.Errorf("a call that could wait did so for %v: %v", time.Since(began), err)
			}
		})
	}
}

func TestSlowdownIsBounded(t *testing.T) {
	t.Parallel()
	for most, want := range map[time.Duration]time.Duration{time.Second: time.Second, 0: 0} {
		synctest.Test(t, func(t *testing.T) {
			l := newLimiter(t, ratelimit.MaxSlowdown(most))
			client := func(failure error) error {
				return l.UnaryClientInterceptor()(t.Context(), "/s/m", nil, nil, nil,
					func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return failure })
			}
			st, _ := status.New(codes.ResourceExhausted, "too much").WithDetails(retryInfo(time.Hour))
			_ = client(st.Err())
			began := time.Now()
			if err := client(nil); err != nil || time.Since(began) != want {
				t.Errorf("at most %v: waited for %v, %v", most, time.Since(began), err)
			}
		})
	}
}

// Whatever calls arrive, no more are accepted in any time than the rate and the burst allow, and a call that waits is
// accepted before its deadline.
func TestRateIsNeverExceeded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		perSecond, burst := rapid.IntRange(1, 50).Draw(r, "per second"), rapid.IntRange(1, 10).Draw(r, "burst")
		synctest.Test(t, func(t *testing.T) {
			l := newLimiter(t, ratelimit.Rate(float64(perSecond), burst))
			var mu sync.Mutex
			var accepted []time.Time
			var wg sync.WaitGroup
			for range rapid.IntRange(1, 60).Draw(r, "calls") {
				time.Sleep(time.Duration(rapid.IntRange(0, 100).Draw(r, "pause")) * ms)
				timeout := time.Duration(rapid.IntRange(1, 2000).Draw(r, "timeout")) * ms
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), timeout)
					defer cancel()
					if serve(ctx, l) == nil {
						mu.Lock()
						defer mu.Unlock()
						accepted = append(accepted, time.Now())
						if ctx.Err() != nil {
							t.Error("a call was accepted after its deadline")
						}
					}
				})
			}
			wg.Wait()
			slices.SortFunc(accepted, time.Time.Compare)
			for i := range accepted {
				for j := i; j < len(accepted); j++ {
					if allowed := float64(burst) + accepted[j].Sub(accepted[i]).Seconds()*float64(perSecond) + 1e-6; float64(j-i+1) > allowed {
						t.Fatalf("%d calls in %v", j-i+1, accepted[j].Sub(accepted[i]))
					}
				}
			}
		})
	})
}

func TestRejectionsAreCounted(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	l := newLimiter(t, ratelimit.Rate(1, 1), ratelimit.MaxWait(0), ratelimit.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	for range 3 {
		_ = serve(t.Context(), l)
	}
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	sum, ok := all.ScopeMetrics[0].Metrics[0].Data.(metricdata.Sum[int64])
	if !ok || sum.DataPoints[0].Value != 2 {
		t.Errorf("counted %v", all.ScopeMetrics[0].Metrics)
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
		l := newLimiter(t, ratelimit.Rate(1, 1), ratelimit.MaxWait(0))
		c := companiontest.Connect(t, s, append(server.ServerOptions(), l.ServerOptions()...), client.DialOptions()...)
		var wg sync.WaitGroup
		wg.Go(func() { _ = companiontest.Call(t.Context(), c, false) })
		synctest.Wait()
		ctx := idempotency.WithKey(t.Context(), "an order")
		if _, ok := limited(companiontest.Call(ctx, c, false)); !ok {
			t.Error("the write was not rejected")
		}
		time.Sleep(time.Minute)
		if err := companiontest.Call(ctx, c, false); err != nil || len(takenOver) != 2 || takenOver[1] {
			t.Errorf("%v, told of a possible effect: %v", err, takenOver)
		}
		wg.Wait()
	})
}

func TestInvalidOptionsAreAllReported(t *testing.T) {
	t.Parallel()
	_, err := ratelimit.New(ratelimit.Rate(0, 1), ratelimit.PerCaller(1, 0, caller), ratelimit.PerCaller(1, 1, nil), ratelimit.MaxCallers(0),
		ratelimit.MaxWait(-1), ratelimit.MaxSlowdown(-1), ratelimit.WithMeterProvider(nil), nil)
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) || len(all.Unwrap()) < 8 {
		t.Errorf("got %v", err)
	}
}

func BenchmarkAccepted(b *testing.B) {
	l := newLimiter(b, ratelimit.Rate(1e9, 1e6), ratelimit.PerCaller(1e9, 1e6, caller))
	b.ReportAllocs()
	for b.Loop() {
		_ = serve(b.Context(), l)
	}
}
