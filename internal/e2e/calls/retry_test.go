package calls_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestFailedCallIsRepeatedUntilItSucceeds(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.FailFirst(2)}
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t).DialOptions()...))
	if err := do(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := leaf.Calls.Load(); n != 3 {
		t.Errorf("%d calls, want 3", n)
	}
}

func TestChainOfFailuresIsRepeatedOnlyNextToTheFailure(t *testing.T) {
	t.Parallel()
	detailed, err := status.New(codes.Unavailable, "the leaf is down").WithDetails(&errdetails.RequestInfo{RequestId: "7"})
	if err != nil {
		t.Fatal(err)
	}
	leaf := &harness.Counter{Fail: harness.AlwaysFail(detailed.Err())}
	n := harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	var middle atomic.Int64
	for range 4 {
		down := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
		n = harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, harness.CountCalls(&middle, harness.NewServer(t).ServerOptions()...)...)
	}
	err = harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))(t.Context())
	if got := status.Convert(err); got.Code() != codes.Unavailable || got.Message() != "the leaf is down" || len(got.Details()) != 1 {
		t.Errorf("got %v, want the leaf's own status with its details", err)
	}
	if n := leaf.Calls.Load(); n != 3 || middle.Load() != 4 {
		t.Errorf("%d calls of the leaf and %d of the others, want 3 and 4", n, middle.Load())
	}
}

// A server that reads the request, counts it, and breaks the connection: did it
// do the work, or not?
func TestCallThatAServerMayHaveSeenIsRepeatedOnlyIfThatIsSafe(t *testing.T) {
	t.Parallel()
	anyRetry := interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: 1, Max: 1}}}
	withKey := func(ctx context.Context) context.Context { return idempotency.WithKey(ctx, idempotency.NewKey()) }
	byHand := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, idempotency.Header, "order-17")
	}
	for name, tc := range map[string]struct {
		method func(*grpc.ClientConn) harness.Call
		with   func(context.Context) context.Context
		opts   []interceptors.ClientOption
		want   int64
	}{
		"not declared":                              {method: harness.Write, want: 1},
		"declared idempotent":                       {method: harness.Idempotent, want: 2},
		"with a key":                                {method: harness.Write, with: withKey, want: 2},
		"with a key put on by hand":                 {method: harness.Write, with: byHand, want: 2},
		"with a retry policy written for it":        {method: harness.Write, opts: []interceptors.ClientOption{harness.Policy(anyRetry)}, want: 2},
		"with a retry policy, but strict":           {method: harness.Write, opts: []interceptors.ClientOption{harness.Policy(anyRetry), interceptors.WithStrictSafety()}, want: 1},
		"declared in the policy":                    {method: harness.Write, opts: []interceptors.ClientOption{harness.Policy(interceptors.Policy{Idempotency: interceptors.Idempotent}), interceptors.WithStrictSafety()}, want: 2},
		"declared not idempotent over its own word": {method: harness.Idempotent, opts: []interceptors.ClientOption{harness.Policy(interceptors.Policy{Idempotency: interceptors.NotIdempotent})}, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var (
				calls atomic.Int64
				n     *harness.Node
			)
			n = harness.Serve(t, func(ctx context.Context) error {
				if calls.Add(1) == 1 {
					n.Cut()
					<-ctx.Done()
				}
				return nil
			}, harness.NewServer(t).ServerOptions()...)
			ctx := t.Context()
			if tc.with != nil {
				ctx = tc.with(ctx)
			}
			err := tc.method(n.Dial(harness.NewClient(t, tc.opts...).DialOptions()...))(ctx)
			if got := calls.Load(); got != tc.want || (err == nil) != (tc.want > 1) {
				t.Errorf("%d calls, %v; want %d", got, err, tc.want)
			}
		})
	}
}

func TestLostReplyCostsAllTokensAndAllowsOneMoreAttempt(t *testing.T) {
	t.Parallel()
	var (
		calls atomic.Int64
		n     *harness.Node
	)
	n = harness.Serve(t, func(ctx context.Context) error {
		calls.Add(1)
		n.Cut()
		<-ctx.Done()
		return nil
	}, harness.NewServer(t).ServerOptions()...)
	b := harness.FixedBudget(budget.PerRequest(3), budget.Burst(20))
	do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetryUpTo(10), interceptors.WithBudget(b)).DialOptions()...))
	if err := do(t.Context()); status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v", err)
	}
	// The first attempt is lent two of the three tokens, and the second the third.
	if got := calls.Load(); got != 3 {
		t.Errorf("%d calls, want the first and one on credit after each that held tokens", got)
	}
	if got := harness.Balance(b); got != 18 {
		t.Errorf("balance %v, want 20 less the 2 extra attempts", got)
	}
}

func TestCallThatReachedNoServerIsRepeatedWithoutATokenWhateverTheMethod(t *testing.T) {
	t.Parallel()
	n := harness.Serve(t, func(context.Context) error { return nil })
	_ = n.Listener.Close()
	b := harness.FixedBudget(budget.Burst(5))
	var attempts atomic.Int64
	count := grpc.WithChainUnaryInterceptor(func(ctx context.Context, m string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		attempts.Add(1)
		return invoke(ctx, m, req, reply, cc, opts...)
	})
	client := harness.NewClient(t, interceptors.WithBudget(b))
	do := harness.Write(n.Dial(append(client.DialOptions(), count)...))
	if err := do(t.Context()); status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v", err)
	}
	if attempts.Load() != 3 || harness.Balance(b) != 5 {
		t.Errorf("%d attempts, balance %v; want 3 and 5", attempts.Load(), harness.Balance(b))
	}
}

func TestUnknownPeerIsRepeatedAndCostsWhatItIs(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	b := harness.FixedBudget(budget.Burst(20))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(b)).DialOptions()...))
	_ = do(t.Context())
	if leaf.Calls.Load() != 3 || harness.Balance(b) != 18 {
		t.Errorf("%d calls, balance %v; want 3 and 18", leaf.Calls.Load(), harness.Balance(b))
	}
}

func TestOnlyCodesOfThePolicyAreRepeated(t *testing.T) {
	t.Parallel()
	retry := interceptors.Policy{Retry: &interceptors.RetryPolicy{Codes: []codes.Code{codes.Aborted}, Backoff: interceptors.Backoff{Base: 1, Max: 1}}}
	for code, want := range map[codes.Code]int64{codes.Aborted: 3, codes.Unavailable: 1, codes.NotFound: 1} {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(status.Error(code, "no"))}
		_ = harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.Policy(retry)).DialOptions()...))(t.Context())
		if n := leaf.Calls.Load(); n != want {
			t.Errorf("%v: %d calls, want %d", code, n, want)
		}
	}
}

func TestPushbackIsObeyed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		values []string
		calls  int64
		after  time.Duration // at least, before the second call
	}{
		"wait 300 ms":       {[]string{"300"}, 3, 300 * time.Millisecond},
		"at once":           {[]string{"0"}, 3, 0},
		"leading zeros":     {[]string{"007"}, 1, 0},
		"minus nothing":     {[]string{"-0"}, 1, 0},
		"never":             {[]string{"-1"}, 1, 0},
		"not a number":      {[]string{"soon"}, 1, 0},
		"a plus sign":       {[]string{"+5"}, 1, 0},
		"beyond 32 bits":    {[]string{"4294967296"}, 1, 0},
		"twice":             {[]string{"5", "5"}, 1, 0},
		"past the deadline": {[]string{"60000"}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int64
				n := harness.Serve(t, func(ctx context.Context) error {
					calls.Add(1)
					_ = grpc.SetTrailer(ctx, metadata.MD{"grpc-retry-pushback-ms": tc.values})
					return harness.ErrUnavailable
				})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				begun := time.Now()
				err := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))(ctx)
				took := time.Since(begun)
				if status.Convert(err).Message() != "the leaf is down" {
					t.Errorf("got %v, want the last attempt's own error", err)
				}
				if calls.Load() != tc.calls || took < 2*tc.after || took > 2*tc.after+time.Second {
					t.Errorf("%d calls in %v, want %d with pauses of %v", calls.Load(), took, tc.calls, tc.after)
				}
			})
		})
	}
}

func TestPauseThatTheDeadlineCannotContainIsNotSlept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		retry := interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: time.Minute, Jitter: interceptors.NoJitter}}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		err := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.Policy(retry)).DialOptions()...))(ctx)
		if took := time.Since(begun); status.Code(err) != codes.Unavailable || took != 0 || leaf.Calls.Load() != 1 {
			t.Errorf("%v after %v and %d calls; want the failure itself at once", err, took, leaf.Calls.Load())
		}
	})
}

func TestCallThatIsCancelledWhilePausedGivesItsTokenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		b := harness.FixedBudget()
		retry := interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: time.Minute, Max: time.Minute, Jitter: interceptors.NoJitter}}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		err := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.Policy(retry), interceptors.WithBudget(b)).DialOptions()...))(ctx)
		if status.Code(err) != codes.Canceled || leaf.Calls.Load() != 1 || harness.Balance(b) != 10 {
			t.Errorf("%v after %d calls, balance %v; want CANCELLED, 1 and 10", err, leaf.Calls.Load(), harness.Balance(b))
		}
	})
}

func TestAttemptTimeoutEndsAnAttemptAndNotTheCall(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		timeout time.Duration
		after   time.Duration // when the second attempt arrives
	}{
		"given":  {200 * time.Millisecond, 200 * time.Millisecond},
		"shared": {interceptors.AttemptTimeoutShared, (3*time.Second - 2*time.Millisecond) / 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int64
				n := harness.Serve(t, func(ctx context.Context) error {
					if calls.Add(1) == 1 {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				}, harness.NewServer(t).ServerOptions()...)
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				begun := time.Now()
				p := interceptors.Policy{AttemptTimeout: tc.timeout, Retry: &interceptors.RetryPolicy{
					Backoff: interceptors.Backoff{Base: time.Millisecond, Max: time.Millisecond, Jitter: interceptors.NoJitter},
				}}
				err := harness.Idempotent(n.Dial(harness.NewClient(t, harness.Policy(p), interceptors.WithBudget(harness.FixedBudget())).DialOptions()...))(ctx)
				took := time.Since(begun) - time.Millisecond
				if err != nil || calls.Load() != 2 || took != tc.after {
					t.Errorf("%v after %d calls, the second at %v; want it at %v", err, calls.Load(), took, tc.after)
				}
			})
		})
	}
}

// sharing is a policy of shared attempt timeouts.
func sharing() interceptors.ClientOption {
	return harness.Policy(interceptors.Policy{
		AttemptTimeout: interceptors.AttemptTimeoutShared,
		Retry:          &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: ms, Max: ms, Jitter: interceptors.NoJitter}},
	})
}

// A third of the deadline may be less than the method needs. Once that is known, its
// attempts have time enough, and only one that hangs is cut short.
func TestSharedTimeoutDoesNotCutHealthyAttemptsShort(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		var hangs, slow atomic.Bool
		n := harness.Serve(t, func(ctx context.Context) error {
			served.Add(1)
			if hangs.Swap(false) {
				<-ctx.Done()
				return ctx.Err()
			}
			if slow.Swap(false) {
				time.Sleep(30 * ms)
			}
			time.Sleep(40 * ms)
			return nil
		}, harness.NewServer(t).ServerOptions()...)
		do := harness.Idempotent(n.Dial(harness.NewClient(t, sharing(), interceptors.WithBudget(harness.FixedBudget())).DialOptions()...))
		for range 50 {
			if err := harness.Within(t, do, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		served.Store(0)
		for range 10 {
			if err := harness.Within(t, do, 100*ms); err != nil {
				t.Error(err)
			}
		}
		if served.Load() != 10 {
			t.Errorf("%d attempts of 10 calls that take 40 of 100 ms, want one each", served.Load())
		}
		hangs.Store(true)
		served.Store(0)
		if err := harness.Within(t, do, 200*ms); err != nil || served.Load() != 2 {
			t.Errorf("%v after %d attempts of a call whose first one hangs, want success after 2", err, served.Load())
		}
		slow.Store(true)
		served.Store(0)
		if err := harness.Within(t, do, 200*ms); err != nil || served.Load() != 1 {
			t.Errorf("%v after %d attempts of a call that takes 70 ms, not twice as long as usual; want 1", err, served.Load())
		}
	})
}

// Cutting an attempt short is of no use if there is no token for another.
func TestSharedTimeoutNeedsATokenForTheNextAttempt(t *testing.T) {
	t.Parallel()
	for tokens, want := range map[int]codes.Code{0: codes.OK, 1: codes.OK, 10: codes.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			n := harness.Serve(t, func(context.Context) error {
				time.Sleep(150 * ms)
				return nil
			}, harness.NewServer(t).ServerOptions()...)
			n.AllowHanging()
			b := harness.FixedBudget(budget.Burst(tokens))
			do := harness.Idempotent(n.Dial(harness.NewClient(t, sharing(), interceptors.WithBudget(b)).DialOptions()...))
			if err := harness.Within(t, do, 200*ms); status.Code(err) != want {
				t.Errorf("with %d tokens: %v, want %v", tokens, err, want)
			}
		})
	}
}
