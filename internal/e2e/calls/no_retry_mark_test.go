package calls_test

import (
	"context"
	"strings"
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

// A hop that gives a call up in a time of its own, with much of its request's
// left, has decided not to repeat it: whoever called it does not either.
func TestCallThatEndsAtItsOwnTimeoutIsMarked(t *testing.T) {
	t.Parallel()
	own := harness.Policy(interceptors.Policy{Timeout: 50 * ms})
	for name, tc := range map[string]struct {
		client interceptors.ClientOption
		ctx    func(context.Context) (context.Context, context.CancelFunc)
	}{
		"by its policy": {own, func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }},
		"by its handler": {harness.FastRetry(), func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*ms)
		}},
	} {
		for caller, dial := range map[string][]grpc.DialOption{"native": {harness.NativeRetry()}, "hopbound": harness.NewClient(t, harness.FastRetry()).DialOptions()} {
			t.Run(name+", "+caller+" caller", func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var calls atomic.Int64
					leaf := harness.Serve(t, func(ctx context.Context) error {
						calls.Add(1)
						<-ctx.Done()
						return status.FromContextError(ctx.Err()).Err()
					}, harness.NewServer(t).ServerOptions()...)
					down := harness.Idempotent(leaf.Dial(harness.NewClient(t, tc.client).DialOptions()...))
					n := harness.Serve(t, func(ctx context.Context) error {
						ctx, cancel := tc.ctx(ctx)
						defer cancel()
						if down(ctx) != nil {
							return status.Error(codes.Unavailable, "the leaf is too slow")
						}
						return nil
					}, harness.NewServer(t).ServerOptions()...)
					_ = harness.Within(t, harness.Idempotent(n.Dial(dial...)), time.Minute)
					if calls.Load() != 1 {
						t.Errorf("%d calls of the leaf, want 1", calls.Load())
					}
				})
			})
		}
	}
}

// The other way round: a hop that runs out of its request's time has given
// nothing up, and a caller that gave this attempt a part of its time may try
// again, however much earlier the reserves below made it end.
func TestAttemptTimeoutIsKnownThroughTheReservesOfHopsBelow(t *testing.T) {
	t.Parallel()
	for name, reserve := range map[string]time.Duration{"a small reserve": 2 * ms, "a large reserve": 50 * ms} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int64
				next := harness.Serve(t, func(ctx context.Context) error {
					if calls.Add(1) == 1 {
						<-ctx.Done()
						return status.FromContextError(ctx.Err()).Err()
					}
					return nil
				}, harness.NewServer(t).ServerOptions()...)
				for range 3 {
					next = harness.Hop(t, next, interceptors.WithReserve(reserve))
				}
				do := harness.Idempotent(next.Dial(harness.NewClient(t, harness.Policy(interceptors.Policy{AttemptTimeout: 300 * ms})).DialOptions()...))
				if err := harness.Within(t, do, time.Second); err != nil || calls.Load() != 2 {
					t.Errorf("%v after %d calls of the leaf, want success after 2", err, calls.Load())
				}
			})
		})
	}
}

// A server that answers DEADLINE_EXCEEDED at once has not been ended by the
// attempt's timeout.
func TestDeadlineExceededThatComesSoonIsNotTheAttemptsTimeout(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(status.Error(codes.DeadlineExceeded, "the leaf's own"))}
	n := harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	_ = harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, harness.Policy(interceptors.Policy{AttemptTimeout: time.Minute})).DialOptions()...)), time.Hour)
	if leaf.Calls.Load() != 1 {
		t.Errorf("%d calls, want 1", leaf.Calls.Load())
	}
}

// An observing client changes nothing for those above it: neither does it mark
// a failure, nor is one unmarked that would not have been.
func TestObservingClientMarksNothing(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.FailFirst(1)}
	n := harness.Hop(t, harness.Serve(t, leaf.Handle), interceptors.WithMode(interceptors.Observe))
	var trailer metadata.MD
	err := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))(t.Context(), grpc.Trailer(&trailer))
	if err != nil || leaf.Calls.Load() != 2 {
		t.Errorf("%v after %d calls, want success after 2", err, leaf.Calls.Load())
	}
}

// What an observing client counts is what its budget would have allowed, and
// its real one stays as it is.
func TestObservingClientCountsWhatItsBudgetAllows(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	b := harness.FixedBudget()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry(), meter,
		interceptors.WithMode(interceptors.Observe), interceptors.WithBudget(b)).DialOptions()...))
	before := harness.Balance(b)
	const calls = 200
	for range calls {
		_ = do(t.Context())
	}
	var retried, empty int64
	for attrs, n := range harness.Sums(t, reader, "hopbound.client.attempts") {
		switch {
		case strings.Contains(attrs, "hopbound.decision=retried"):
			retried += n
		case strings.Contains(attrs, "hopbound.decision=budget_empty"):
			empty += n
		}
	}
	if retried != int64(before) || retried+empty != calls {
		t.Errorf("%d would have been retried and %d not for want of tokens, of %v tokens", retried, empty, before)
	}
	if harness.Balance(b) != before || leaf.Calls.Load() != calls {
		t.Errorf("balance %v and %d calls: observing is not nothing", harness.Balance(b), leaf.Calls.Load())
	}
}

// A client refuses what the way to the target has no time for. That it knows of
// one slow reply alone is not enough: that one may have waited for its
// connection.
func TestOneSlowReplyDoesNotSetTheRoundTrip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.Serve(t, func(context.Context) error { return harness.ErrUnavailable }, harness.NewServer(t).ServerOptions()...)
		n.Network = harness.NewNetwork(3 * time.Second)
		do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetryUpTo(1)).DialOptions()...))
		_ = harness.Within(t, do, time.Minute)
		n.Network.Delay.Store(0)
		for range 40 {
			if err := harness.Within(t, do, 500*ms); harness.Reason(err) == interceptors.ReasonDeadlineUnreachable {
				t.Fatal("refused what fits")
			}
		}
	})
}

// A pushback resets the backoff, whatever the jitter goes by.
func TestBackoffRestartsAfterAPushback(t *testing.T) {
	t.Parallel()
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int64
			var second, third time.Time
			n := harness.Serve(t, func(ctx context.Context) error {
				switch calls.Add(1) {
				case 1:
					return interceptors.Overloaded(ctx, codes.Unavailable, 10*time.Second)
				case 2:
					second = time.Now()
				case 3:
					third = time.Now()
				}
				return harness.ErrUnavailable
			})
			do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
				Backoff: interceptors.Backoff{Base: ms, Max: time.Minute, Jitter: interceptors.DecorrelatedJitter},
			}})).DialOptions()...))
			_ = do(t.Context())
			if pause := third.Sub(second); pause > 3*ms {
				t.Errorf("a pause of %v after the pushback, want at most 3 ms", pause)
			}
		})
	}
}

// A call that is cancelled in a pause says so, with the reason of this package,
// and its last attempt is not said to have been retried.
func TestCallCancelledDuringBackoff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorder, tracer := harness.Traced()
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, tracer, harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			Backoff: interceptors.Backoff{Base: time.Minute, Max: time.Minute, Jitter: interceptors.NoJitter},
		}})).DialOptions()...))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := do(ctx); harness.Reason(err) != interceptors.ReasonCancelled || status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
		harness.Compare(t, harness.Tree(recorder.Ended()), `
hopbound.call Idempotent [internal] Error {attempts=1 decision=not_retryable reason=cancelled rpc.response.status_code=CANCELLED}
  * hopbound.backoff {backoff_ms=60000 reason=backoff rpc.response.status_code=UNAVAILABLE}
  Idempotent [client] Error {attempt=1 budget.leased=5 budget.used=0 decision=not_retryable reason=cancelled rpc.response.status_code=UNAVAILABLE}
`)
	})
}

// What a handler makes of a failure below, and how its caller is told.
func TestFailureThatAHopWillNotRetryIsMarked(t *testing.T) {
	t.Parallel()
	other := status.Error(codes.Internal, "translated")
	for name, tc := range map[string]struct {
		below   error                 // what the leaf answers
		handler func(err error) error // what the hop makes of it
		tokens  int                   // leased to the hop
		push    string
		wanting bool
	}{
		"given up, returned as it is":          {harness.ErrUnavailable, func(err error) error { return err }, 2, "-1", false},
		"given up, translated":                 {harness.ErrUnavailable, func(error) error { return other }, 2, "-1", false},
		"declined for want of tokens":          {harness.ErrUnavailable, func(err error) error { return err }, 0, "-1", true},
		"no matter for retries":                {status.Error(codes.NotFound, ""), func(err error) error { return err }, 2, "-1", false},
		"no matter for retries, another error": {status.Error(codes.NotFound, ""), func(error) error { return harness.ErrUnavailable }, 2, "", false},
		"no failure below":                     {nil, func(error) error { return harness.ErrUnavailable }, 2, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &harness.Counter{Fail: harness.AlwaysFail(tc.below)}
			down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
			n := harness.Serve(t, func(ctx context.Context) error { return tc.handler(down(ctx)) }, harness.NewServer(t).ServerOptions()...)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "hop-context", "1;b="+string(rune('0'+tc.tokens))+";a=1")
			var trailer metadata.MD
			if harness.Idempotent(n.Dial())(ctx, grpc.Trailer(&trailer)) == nil {
				t.Fatal("the call succeeded")
			}
			if got := strings.Join(trailer["grpc-retry-pushback-ms"], ","); got != tc.push {
				t.Errorf("pushback %q, want %q", got, tc.push)
			}
			report := strings.Join(trailer["hop-report"], ",")
			if strings.HasSuffix(report, ";n=1") != tc.wanting || !strings.HasPrefix(report, "1;u=") {
				t.Errorf("report %q, want n=1: %v", report, tc.wanting)
			}
		})
	}
}

func TestFailureWithoutARequestTokenIsRetriedByAHopThatHoldsOne(t *testing.T) {
	t.Parallel()
	var leafCalls atomic.Int64
	n := harness.Serve(t, func(ctx context.Context) error {
		leafCalls.Add(1)
		if v := metadata.ValueFromIncomingContext(ctx, "hop-context"); len(v) == 1 && strings.Contains(v[0], "a=1") && leafCalls.Load() == 1 {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1", "hop-report", "1;u=0;e=1;n=1"))
			return harness.ErrUnavailable
		}
		return nil
	})
	do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
	if err := do(t.Context()); err != nil || leafCalls.Load() != 2 {
		t.Errorf("%v after %d calls, want success with the second", err, leafCalls.Load())
	}
}

// A failure for want of a token may be repeated by whoever holds one, unless
// another call of the same request failed for good.
func TestFinalFailureOutweighsOneWithoutARequestToken(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		second []grpc.CallOption
		want   bool
	}{
		"the second call too for want of one": {nil, true},
		"the second call for good":            {[]grpc.CallOption{interceptors.NoRetry()}, false},
	} {
		down := harness.Idempotent(harness.Serve(t, func(context.Context) error { return harness.ErrUnavailable }).Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
		n := harness.Serve(t, func(ctx context.Context) error {
			_ = down(ctx)
			return down(ctx, tc.second...)
		}, harness.NewServer(t).ServerOptions()...)
		var trailer metadata.MD
		ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;b=0")
		_ = harness.Idempotent(n.Dial())(ctx, grpc.Trailer(&trailer))
		r, ok := wire.ParseReport(trailer[wire.ReportKey][0])
		if !ok || r.NoTokens != tc.want || trailer["grpc-retry-pushback-ms"][0] != "-1" {
			t.Errorf("%s: report %+v, trailer %v; want wanting %v, and the mark", name, r, trailer, tc.want)
		}
	}
}
