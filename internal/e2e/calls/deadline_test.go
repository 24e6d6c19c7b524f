package calls_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// stack is what servers and clients are made with, of Hopbound or of nothing.
func stack(t testing.TB, hopbound bool) ([]grpc.ServerOption, []grpc.DialOption) {
	t.Helper()
	if !hopbound {
		return nil, nil
	}
	return harness.NewServer(t).ServerOptions(), harness.NewClient(t).DialOptions()
}

// A call that waits for its turn on the client, because the server allows one
// stream at a time, has its timeout computed before the wait.
func TestTimeThatACallIsHeldBackIsTakenOffItsDeadline(t *testing.T) {
	t.Parallel()
	given := func(t *testing.T, hopbound bool) (left time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			server, client := stack(t, hopbound)
			seen := harness.NewArrival()
			var first atomic.Bool
			n := harness.Serve(t, func(ctx context.Context) error {
				if first.CompareAndSwap(true, false) {
					time.Sleep(350 * ms)
					return nil
				}
				return seen.Handle(ctx)
			}, append(server, grpc.MaxConcurrentStreams(1))...)
			do := harness.Idempotent(n.Dial(client...))
			if err := harness.Within(t, do, time.Second); err != nil { // the base delay is known from now on
				t.Fatal(err)
			}
			<-seen.Left
			first.Store(true)
			done := make(chan error)
			go func() { done <- harness.Within(t, do, time.Second) }()
			synctest.Wait()
			if err := harness.Within(t, do, time.Second); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			left = <-seen.Left
		})
		return left
	}
	plain := given(t, false)
	ours := given(t, true)
	t.Logf("of a second, less 350 ms of waiting, plain gRPC gives the handler %v and Hopbound %v", plain, ours)
	if plain < 999*ms {
		t.Errorf("plain gRPC gives %v: the test shows nothing", plain)
	}
	if ours > 652*ms || ours < 640*ms {
		t.Errorf("given %v, want 650 ms", ours)
	}
}

func TestServerThatIsCutOffStopsWithItsCallersDeadline(t *testing.T) {
	t.Parallel()
	late := func(t *testing.T, hopbound bool) (late time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			server, client := stack(t, hopbound)
			ended := make(chan time.Time, 1)
			var cutOff atomic.Bool
			n := harness.Serve(t, func(ctx context.Context) error {
				if !cutOff.Load() {
					return status.Error(codes.NotFound, "teaches the caller how long a reply takes")
				}
				<-ctx.Done()
				ended <- time.Now()
				return ctx.Err()
			}, server...)
			n.Network = harness.NewNetwork(30 * ms)
			do := harness.Idempotent(n.Dial(client...))
			for range 3 {
				_ = harness.Within(t, do, time.Second)
			}
			cutOff.Store(true)
			until := time.Now().Add(time.Second)
			time.AfterFunc(500*ms, n.Network.Partition)
			_ = harness.Within(t, do, time.Second)
			late = (<-ended).Sub(until)
			n.Cut()
		})
		return late
	}
	plain := late(t, false)
	ours := late(t, true)
	t.Logf("past the caller's deadline: plain gRPC works for %v, Hopbound for %v", plain, ours)
	if plain <= 10*ms {
		t.Errorf("plain gRPC stops in time: the test shows nothing")
	}
	if ours > 10*ms {
		t.Errorf("worked %v past the caller's deadline, want at most 10 ms", ours)
	}
}

func TestRequestThatArrivesExpiredNeverReachesTheHandler(t *testing.T) {
	t.Parallel()
	t.Run("held up in the socket", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			seen := harness.NewArrival()
			n := harness.Serve(t, seen.Handle, harness.NewServer(t).ServerOptions()...)
			n.Network = &harness.Network{}
			do := harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...))
			if err := harness.Within(t, do, 300*ms); err != nil {
				t.Fatal(err)
			}
			<-seen.Left
			release := n.Network.Hold()
			time.AfterFunc(500*ms, release)
			if err := harness.Within(t, do, 300*ms); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("got %v", err)
			}
			time.Sleep(time.Second)
			if len(seen.Left) != 0 {
				t.Error("the handler ran")
			}
		})
	})
	t.Run("stamped so", func(t *testing.T) {
		t.Parallel()
		seen := harness.NewArrival()
		do := harness.Idempotent(harness.Serve(t, seen.Handle, harness.NewServer(t).ServerOptions()...).Dial())
		ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=1;a=1")
		err := harness.Within(t, func(context.Context, ...grpc.CallOption) error { return do(ctx) }, time.Minute)
		if status.Code(err) != codes.DeadlineExceeded || harness.Reason(err) != interceptors.ReasonDeadlineExpired || len(seen.Left) != 0 {
			t.Errorf("got %v (%s), and the handler ran %d times", err, harness.Reason(err), len(seen.Left))
		}
	})
}

// The same calls, with the sender's clock days off: what the handler is given
// does not change by a nanosecond.
func TestServersClockMayBeDaysOff(t *testing.T) {
	t.Parallel()
	given := func(t *testing.T, off time.Duration) (left []time.Duration) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			seen := harness.NewArrival()
			do := harness.Idempotent(harness.Serve(t, seen.Handle, harness.NewServer(t).ServerOptions()...).Dial())
			for _, queued := range []time.Duration{0, 40 * ms, 0, 350 * ms, 10 * ms, 990 * ms, 1100 * ms} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				sent := time.Now().Add(off).UnixMicro()
				time.Sleep(queued)
				h := wire.Context{Deadline: sent + 1_000_000, HasDeadline: true, Sent: sent, ClockID: 7, HasSent: true, Attempt: 1}
				// gRPC's own timeout is computed anew, as if nothing had been lost.
				fresh, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				err := do(metadata.AppendToOutgoingContext(fresh, wire.ContextKey, string(h.Append(nil))))
				if err == nil {
					left = append(left, <-seen.Left)
				} else {
					left = append(left, -1)
				}
				stop()
				cancel()
			}
		})
		return left
	}
	right := fmt.Sprint(given(t, 0))
	t.Log(right)
	for _, off := range []time.Duration{72 * time.Hour, -72 * time.Hour} {
		if got := fmt.Sprint(given(t, off)); got != right {
			t.Errorf("%v off: given %s, and with the right clock %s", off, got, right)
		}
	}
}

func TestHealthyCallHasNoTrailerMostlyAndNoTimer(t *testing.T) {
	t.Parallel()
	var derived atomic.Int64
	outer := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		want, _ := ctx.Deadline()
		return h(context.WithValue(ctx, wantKey{}, want), req)
	})
	n := harness.Serve(t, func(ctx context.Context) error {
		if got, _ := ctx.Deadline(); got != ctx.Value(wantKey{}) {
			derived.Add(1)
		}
		return nil
	}, append([]grpc.ServerOption{outer}, harness.NewServer(t).ServerOptions()...)...)
	do := harness.Idempotent(n.Dial(harness.NewClient(t, interceptors.WithReserve(0)).DialOptions()...))
	trailers := 0
	const calls = 1600
	for range calls {
		var trailer metadata.MD
		if err := harness.Within(t, do, time.Hour, grpc.Trailer(&trailer)); err != nil {
			t.Fatal(err)
		}
		if len(trailer) > 0 {
			trailers++
		}
	}
	if trailers < calls/32 || trailers > calls/8 {
		t.Errorf("%d of %d successes had a trailer, want about one in 16", trailers, calls)
	}
	if n := derived.Load(); n > calls/4 { // a noisy machine delays some by more than a millisecond
		t.Errorf("%d of %d healthy calls were given a deadline of their own", n, calls)
	}
}

type wantKey struct{}

func TestServerBoundsDeadlines(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts    []interceptors.ServerOption
		timeout time.Duration // 0 is none
		want    time.Duration // -1 is none, 0 is refused
	}{
		"none":                                    {nil, 0, -1},
		"default for one without":                 {[]interceptors.ServerOption{interceptors.WithDefaultDeadline(time.Second)}, 0, time.Second},
		"default leaves others":                   {[]interceptors.ServerOption{interceptors.WithDefaultDeadline(time.Second)}, time.Minute, time.Minute},
		"maximum":                                 {[]interceptors.ServerOption{interceptors.WithMaxDeadline(time.Second)}, time.Minute, time.Second},
		"maximum for one without":                 {[]interceptors.ServerOption{interceptors.WithMaxDeadline(time.Second)}, 0, time.Second},
		"maximum leaves earlier ones":             {[]interceptors.ServerOption{interceptors.WithMaxDeadline(time.Second)}, 300 * ms, 300 * ms},
		"floor":                                   {[]interceptors.ServerOption{interceptors.WithFloor(400 * ms)}, 300 * ms, 0},
		"floor leaves those above":                {[]interceptors.ServerOption{interceptors.WithFloor(300 * ms)}, 300 * ms, 300 * ms},
		"floor says nothing of one without":       {[]interceptors.ServerOption{interceptors.WithFloor(300 * ms)}, 0, -1},
		"observed floor":                          {[]interceptors.ServerOption{interceptors.WithFloor(400 * ms), interceptors.WithMode(interceptors.Observe)}, 300 * ms, 300 * ms},
		"observed maximum":                        {[]interceptors.ServerOption{interceptors.WithMaxDeadline(time.Second), interceptors.WithMode(interceptors.Observe)}, time.Minute, time.Minute},
		"adaptive floor that has learned nothing": {[]interceptors.ServerOption{interceptors.WithAdaptiveFloor()}, ms, ms},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				seen := harness.NewArrival()
				do := harness.Idempotent(harness.Serve(t, seen.Handle, harness.NewServer(t, tc.opts...).ServerOptions()...).Dial())
				ctx := t.Context()
				if tc.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.timeout)
					defer cancel()
				}
				err := do(ctx)
				if tc.want == 0 {
					if harness.Reason(err) != interceptors.ReasonDeadlineUnreachable || len(seen.Left) != 0 {
						t.Errorf("got %v, want a refusal", err)
					}
					return
				}
				if got := <-seen.Left; err != nil || got != tc.want {
					t.Errorf("given %v (%v), want %v", got, err, tc.want)
				}
			})
		})
	}
}

func TestAdaptiveFloorRefusesWhatTheMethodCannotFinish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ran atomic.Int64
		do := harness.Idempotent(harness.Serve(t, func(context.Context) error {
			ran.Add(1)
			time.Sleep(100 * ms)
			return nil
		}, harness.NewServer(t, interceptors.WithAdaptiveFloor()).ServerOptions()...).Dial())
		for range 20 {
			if err := harness.Within(t, do, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		refused := 0
		for range 5 {
			if harness.Reason(harness.Within(t, do, 50*ms)) == interceptors.ReasonDeadlineUnreachable {
				refused++
			}
		}
		if refused == 0 || ran.Load() != 25-int64(refused) {
			t.Errorf("%d of 5 refused, and the handler ran %d times", refused, ran.Load())
		}
	})
}
