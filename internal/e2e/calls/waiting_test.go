package calls_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	_ "google.golang.org/grpc/encoding/gzip"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A call that waits for a server to come up does not use up its attempts before the
// server is there.
func TestWaitForReadyDoesNotUseUpAttempts(t *testing.T) {
	t.Parallel()
	short := interceptors.Policy{AttemptTimeout: 200 * ms, Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: ms, Max: ms}}}
	waiting := short
	waiting.WaitForReady = true
	for name, tc := range map[string]struct {
		policy interceptors.Policy
		opts   []grpc.CallOption
	}{
		"by the call's options": {short, []grpc.CallOption{grpc.WaitForReady(true)}},
		"by the policy":         {waiting, nil},
	} {
		for kind, do := range map[string]func(ctx context.Context, cc *grpc.ClientConn, opts ...grpc.CallOption) error{
			"unary": func(ctx context.Context, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
				return harness.Idempotent(cc)(ctx, opts...)
			},
			"stream": func(ctx context.Context, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
				_, err := harness.Kinds()[0].Exchange(ctx, cc, []string{"request"}, opts...)
				return err
			},
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					leaf := &harness.Counter{}
					n := harness.ServeAll(t, leaf.Handle)
					n.Refused.Store(1 << 40)
					time.AfterFunc(900*ms, func() { n.Refused.Store(0) })
					fast := grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * ms, Multiplier: 1, MaxDelay: 50 * ms}})
					cc := n.Dial(append(harness.NewClient(t, harness.Policy(tc.policy)).DialOptions(), fast)...)
					ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
					defer cancel()
					if err := do(ctx, cc, tc.opts...); err != nil || leaf.Calls.Load() != 1 {
						t.Errorf("%v after %d calls of the server, want success with one", err, leaf.Calls.Load())
					}
				})
			})
		}
	}
}

// DEADLINE_EXCEEDED of a server's own is a code like any other, if the policy lists it
// and there is time left.
func TestDeadlineExceededOfAServerIsRetriedIfItIsListed(t *testing.T) {
	t.Parallel()
	for _, took := range []time.Duration{0, 100 * ms, 600 * ms, 900 * ms} {
		for listed, want := range map[bool]int64{true: 2, false: 1} {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int64
				n := harness.Serve(t, func(context.Context) error {
					if calls.Add(1) > 1 {
						return nil
					}
					time.Sleep(took)
					return status.Error(codes.DeadlineExceeded, "of a call to another service")
				})
				retry := &interceptors.RetryPolicy{Codes: []codes.Code{codes.Unavailable}, Backoff: interceptors.Backoff{Base: ms, Max: ms}}
				if listed {
					retry.Codes = append(retry.Codes, codes.DeadlineExceeded)
				}
				err := harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, harness.Policy(interceptors.Policy{Retry: retry})).DialOptions()...)), time.Second)
				if calls.Load() != want || (err == nil) != listed {
					t.Errorf("after %v, listed %v: %v after %d calls, want %d", took, listed, err, calls.Load(), want)
				}
			})
		}
	}
}

// pushing answers UNAVAILABLE, and asks to be called again after some milliseconds.
func pushing(calls *atomic.Int64, after string) harness.Handler {
	return func(ctx context.Context) error {
		if calls.Add(1) > 1 {
			return nil
		}
		_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", after))
		return harness.ErrUnavailable
	}
}

// A server may ask for more time than anybody has.
func TestPushbackIsCapped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		do := harness.Idempotent(harness.Serve(t, pushing(&calls, "2147483647")).Dial(harness.NewClient(t).DialOptions()...))
		started := time.Now()
		if err := do(t.Context()); err != nil || time.Since(started) != 5*time.Minute {
			t.Errorf("%v after %v, want success after 5 minutes", err, time.Since(started))
		}
	})
}

// A connection that is closed while a call waits for its next attempt ends the call.
func TestBackoffEndsWhenTheConnectionCloses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		cc := harness.Serve(t, pushing(&calls, "60000")).Dial(harness.NewClient(t).DialOptions()...)
		time.AfterFunc(time.Second, func() { _ = cc.Close() })
		started := time.Now()
		err := harness.Idempotent(cc)(t.Context())
		if status.Code(err) != codes.Unavailable || calls.Load() != 1 || time.Since(started) != time.Second {
			t.Errorf("%v after %v and %d calls, want the last failure after a second", err, time.Since(started), calls.Load())
		}
	})
}

// A token of the target's meter that was taken for an attempt which is not made,
// or reaches nobody, is there for the next.
func TestTokenOfAnAttemptThatIsNotSentReturnsToTheTarget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		n := harness.Serve(t, leaf.Handle)
		// The meter holds four tokens, and each request one: only the meter's are ever
		// short.
		b := harness.FourTokens()
		do := harness.Idempotent(n.Dial(harness.NewClient(t, interceptors.WithBudget(b), harness.Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			Backoff: interceptors.Backoff{Base: time.Hour, Max: time.Hour, Jitter: interceptors.NoJitter},
		}})).DialOptions()...))
		for range 20 { // cancelled while they wait for their second attempt
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			_ = do(ctx)
		}
		if harness.Balance(b) != 4 {
			t.Fatalf("balance %v, want 4", harness.Balance(b))
		}
		leaf.Calls.Store(0)
		_ = do(t.Context())
		if leaf.Calls.Load() != 2 {
			t.Errorf("%d calls of a request with a token, want 2", leaf.Calls.Load())
		}
	})
}
