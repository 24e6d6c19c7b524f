package calls_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestReserveIsKeptFromTheCalleeAndNotFromTheCaller(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts []interceptors.ClientOption
		with func(context.Context) context.Context
		want time.Duration
	}{
		"nothing learned yet": {nil, nil, time.Second},
		"fixed":               {[]interceptors.ClientOption{interceptors.WithReserve(30 * ms)}, nil, 970 * ms},
		"at most a fifth":     {[]interceptors.ClientOption{interceptors.WithReserve(time.Minute)}, nil, 800 * ms},
		"of the context": {
			[]interceptors.ClientOption{interceptors.WithReserve(30 * ms)},
			func(ctx context.Context) context.Context { return deadline.WithReserve(ctx, 100*ms) }, 900 * ms,
		},
		"observed": {[]interceptors.ClientOption{interceptors.WithReserve(30 * ms), interceptors.WithMode(interceptors.Observe)}, nil, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				seen := harness.NewArrival()
				do := harness.Idempotent(harness.Serve(t, seen.Handle, harness.NewServer(t).ServerOptions()...).Dial(harness.NewClient(t, tc.opts...).DialOptions()...))
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if tc.with != nil {
					ctx = tc.with(ctx)
				}
				if err := do(ctx); err != nil {
					t.Fatal(err)
				}
				if got := <-seen.Left; got != tc.want {
					t.Errorf("given %v, want %v", got, tc.want)
				}
			})
		})
	}
}

func TestReserveIsLearnedFromReplies(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seen := harness.NewArrival()
		var fail atomic.Bool
		fail.Store(true)
		n := harness.Serve(t, func(ctx context.Context) error {
			if fail.Load() {
				time.Sleep(70 * ms) // in the server, which is no part of the way
				return status.Error(codes.NotFound, "")
			}
			return seen.Handle(ctx)
		}, harness.NewServer(t).ServerOptions()...)
		const delay = 20 * ms // each way
		n.Network = harness.NewNetwork(delay)
		do := harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...))
		for range 5 { // the first waits for the connection
			_ = harness.Within(t, do, time.Second)
		}
		fail.Store(false)
		if err := harness.Within(t, do, time.Second); err != nil {
			t.Fatal(err)
		}
		// gRPC may send a request in two pieces, of which the second waits for the first.
		want := time.Second - 2*delay
		if got := <-seen.Left; got < want-delay-ms || got > want+ms {
			t.Errorf("given %v, want %v or a delay less", got, want)
		}
	})
}

func TestClientRefusesWhatCannotBeInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(status.Error(codes.NotFound, ""))}
		n := harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
		n.Network = harness.NewNetwork(50 * ms)
		do := harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...))
		expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-ms))
		defer cancel()
		if err := do(expired); harness.Reason(err) != interceptors.ReasonDeadlineExpired || leaf.Calls.Load() != 0 {
			t.Errorf("got %v after %d calls", err, leaf.Calls.Load())
		}
		for range 10 {
			_ = harness.Within(t, do, time.Second)
		}
		calls, begun := leaf.Calls.Load(), time.Now()
		err := harness.Within(t, do, 60*ms)
		if harness.Reason(err) != interceptors.ReasonDeadlineUnreachable || leaf.Calls.Load() != calls || time.Since(begun) != 0 {
			t.Errorf("got %v after %v and %d calls, want a refusal at once", err, time.Since(begun), leaf.Calls.Load()-calls)
		}
	})
}

// An attempt is made only if its reply can be back in time: the way there and back
// takes 100 ms.
func TestNoAttemptIsMadeWhoseReplyCannotBeBackInTime(t *testing.T) {
	t.Parallel()
	stalls := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	fails := func(context.Context) error { return harness.ErrUnavailable }
	hedges := func(delay time.Duration) interceptors.ClientOption {
		return harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 2, Delay: delay})
	}
	for name, tc := range map[string]struct {
		opt     interceptors.ClientOption
		handle  func(context.Context) error
		timeout time.Duration
		again   bool
	}{
		"a retry":                            {harness.FastRetry(), fails, 190 * ms, false},
		"a retry that can":                   {harness.FastRetry(), fails, 490 * ms, true},
		"a hedge":                            {hedges(20 * ms), stalls, 118 * ms, false},
		"a hedge that can":                   {hedges(20 * ms), stalls, 490 * ms, true},
		"a hedge in place of a failure":      {hedges(time.Hour), fails, 190 * ms, false},
		"one in place of a failure that can": {hedges(time.Hour), fails, 490 * ms, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int64
				var learned atomic.Bool
				n := harness.Serve(t, func(ctx context.Context) error {
					if !learned.Load() {
						return status.Error(codes.NotFound, "")
					}
					calls.Add(1)
					return tc.handle(ctx)
				}, harness.NewServer(t).ServerOptions()...)
				n.Network = harness.NewNetwork(50 * ms)
				do := harness.Idempotent(n.Dial(harness.NewClient(t, tc.opt, interceptors.WithBudget(budget.New(budget.Burst(100)))).DialOptions()...))
				for range 5 {
					_ = harness.Within(t, do, time.Second)
				}
				time.Sleep(time.Second) // whatever is under way arrives
				learned.Store(true)
				_ = harness.Within(t, do, tc.timeout)
				time.Sleep(time.Second)
				if got := calls.Load(); (got > 1) != tc.again {
					t.Errorf("%d attempts; want more than one: %v", got, tc.again)
				}
			})
		})
	}
}

func TestPolicyTimeoutBoundsACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seen := harness.NewArrival()
		n := harness.Serve(t, seen.Handle, harness.NewServer(t).ServerOptions()...)
		do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.Policy(interceptors.Policy{Timeout: time.Second})).DialOptions()...))
		for timeout, want := range map[time.Duration]time.Duration{time.Minute: time.Second, 300 * ms: 300 * ms} {
			if err := harness.Within(t, do, timeout); err != nil {
				t.Fatal(err)
			}
			if got := <-seen.Left; got != want {
				t.Errorf("of %v given %v, want %v", timeout, got, want)
			}
		}
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := <-seen.Left; got != time.Second {
			t.Errorf("without a deadline given %v, want a second", got)
		}
	})
}
