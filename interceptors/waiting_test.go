package interceptors_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
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
				return idempotent(cc)(ctx, opts...)
			},
			"stream": func(ctx context.Context, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
				_, err := kinds()[0].exchange(ctx, cc, []string{"request"}, opts...)
				return err
			},
		} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					leaf := &counter{}
					n := serveAll(t, leaf.handle)
					n.refused.Store(1 << 40)
					time.AfterFunc(900*ms, func() { n.refused.Store(0) })
					fast := grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * ms, Multiplier: 1, MaxDelay: 50 * ms}})
					cc := n.dial(append(newClient(t, policy(tc.policy)).DialOptions(), fast)...)
					ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
					defer cancel()
					if err := do(ctx, cc, tc.opts...); err != nil || leaf.calls.Load() != 1 {
						t.Errorf("%v after %d calls of the server, want success with one", err, leaf.calls.Load())
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
				n := serve(t, func(context.Context) error {
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
				err := within(t, idempotent(n.dial(newClient(t, policy(interceptors.Policy{Retry: retry})).DialOptions()...)), time.Second)
				if calls.Load() != want || (err == nil) != listed {
					t.Errorf("after %v, listed %v: %v after %d calls, want %d", took, listed, err, calls.Load(), want)
				}
			})
		}
	}
}

// pushing answers UNAVAILABLE, and asks to be called again after some milliseconds.
func pushing(calls *atomic.Int64, after string) handler {
	return func(ctx context.Context) error {
		if calls.Add(1) > 1 {
			return nil
		}
		_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", after))
		return errUnavailable
	}
}

// A server may ask for more time than anybody has.
func TestPushbackIsCapped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		do := idempotent(serve(t, pushing(&calls, "2147483647")).dial(newClient(t).DialOptions()...))
		started := time.Now()
		if err := do(t.Context()); err != nil || time.Since(started) != 5*time.Minute {
			t.Errorf("%v after %v, want success after 5 minutes", err, time.Since(started))
		}
	})
}

// A connection that is closed while a call waits for its next attempt ends the call.
func TestPauseEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		cc := serve(t, pushing(&calls, "60000")).dial(newClient(t).DialOptions()...)
		time.AfterFunc(time.Second, func() { _ = cc.Close() })
		started := time.Now()
		err := idempotent(cc)(t.Context())
		if status.Code(err) != codes.Unavailable || calls.Load() != 1 || time.Since(started) != time.Second {
			t.Errorf("%v after %v and %d calls, want the last failure after a second", err, time.Since(started), calls.Load())
		}
	})
}
