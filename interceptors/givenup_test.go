package interceptors_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A hop that gives a call up in a time of its own, with much of its request's
// left, has decided not to repeat it: whoever called it does not either.
func TestCallGivenUpInATimeOfItsOwnIsMarked(t *testing.T) {
	t.Parallel()
	own := policy(interceptors.Policy{Timeout: 50 * ms})
	for name, tc := range map[string]struct {
		client interceptors.ClientOption
		ctx    func(context.Context) (context.Context, context.CancelFunc)
	}{
		"by its policy": {own, func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }},
		"by its handler": {quick(), func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 50*ms)
		}},
	} {
		for caller, dial := range map[string][]grpc.DialOption{"native": {native()}, "hopbound": newClient(t, quick()).DialOptions()} {
			t.Run(name+", "+caller+" caller", func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					var calls atomic.Int64
					leaf := serve(t, func(ctx context.Context) error {
						calls.Add(1)
						<-ctx.Done()
						return status.FromContextError(ctx.Err()).Err()
					}, newServer(t).ServerOptions()...)
					down := idempotent(leaf.dial(newClient(t, tc.client).DialOptions()...))
					n := serve(t, func(ctx context.Context) error {
						ctx, cancel := tc.ctx(ctx)
						defer cancel()
						if down(ctx) != nil {
							return status.Error(codes.Unavailable, "the leaf is too slow")
						}
						return nil
					}, newServer(t).ServerOptions()...)
					_ = within(t, idempotent(n.dial(dial...)), time.Minute)
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
				next := serve(t, func(ctx context.Context) error {
					if calls.Add(1) == 1 {
						<-ctx.Done()
						return status.FromContextError(ctx.Err()).Err()
					}
					return nil
				}, newServer(t).ServerOptions()...)
				for range 3 {
					next = hop(t, next, interceptors.WithReserve(reserve))
				}
				do := idempotent(next.dial(newClient(t, policy(interceptors.Policy{AttemptTimeout: 300 * ms})).DialOptions()...))
				if err := within(t, do, time.Second); err != nil || calls.Load() != 2 {
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
	leaf := &counter{fail: always(status.Error(codes.DeadlineExceeded, "the leaf's own"))}
	n := serve(t, leaf.handle, newServer(t).ServerOptions()...)
	_ = within(t, idempotent(n.dial(newClient(t, policy(interceptors.Policy{AttemptTimeout: time.Minute})).DialOptions()...)), time.Hour)
	if leaf.calls.Load() != 1 {
		t.Errorf("%d calls, want 1", leaf.calls.Load())
	}
}

// An observing client changes nothing for those above it: neither does it mark
// a failure, nor is one unmarked that would not have been.
func TestObservingClientMarksNothing(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: failing(1)}
	n := hop(t, serve(t, leaf.handle), interceptors.WithMode(interceptors.Observe))
	var trailer metadata.MD
	err := idempotent(n.dial(newClient(t, quick()).DialOptions()...))(t.Context(), grpc.Trailer(&trailer))
	if err != nil || leaf.calls.Load() != 2 {
		t.Errorf("%v after %d calls, want success after 2", err, leaf.calls.Load())
	}
}

// What an observing client counts is what its budget would have allowed, and
// its real one stays as it is.
func TestObservingClientCountsWhatItsBudgetAllows(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	b := fixedBudget()
	leaf := &counter{fail: always(errUnavailable)}
	do := idempotent(serve(t, leaf.handle).dial(newClient(t, quick(), meter,
		interceptors.WithMode(interceptors.Observe), interceptors.WithBudget(b)).DialOptions()...))
	before := balance(b)
	const calls = 200
	for range calls {
		_ = do(t.Context())
	}
	var retried, empty int64
	for attrs, n := range sums(t, reader, "hopbound.client.attempts") {
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
	if balance(b) != before || leaf.calls.Load() != calls {
		t.Errorf("balance %v and %d calls: observing is not nothing", balance(b), leaf.calls.Load())
	}
}

// A client refuses what the way to the target has no time for. That it knows of
// one slow reply alone is not enough: that one may have waited for its
// connection.
func TestOneSlowReplyTeachesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := serve(t, func(context.Context) error { return errUnavailable }, newServer(t).ServerOptions()...)
		n.network = newNetwork(3 * time.Second)
		do := idempotent(n.dial(newClient(t, quickly(1)).DialOptions()...))
		_ = within(t, do, time.Minute)
		n.network.delay.Store(0)
		for range 40 {
			if err := within(t, do, 500*ms); reason(err) == interceptors.ReasonDeadlineUnreachable {
				t.Fatal("refused what fits")
			}
		}
	})
}

// A pushback resets the backoff, whatever the jitter goes by.
func TestBackoffBeginsAnewAfterAPushback(t *testing.T) {
	t.Parallel()
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			var calls atomic.Int64
			var second, third time.Time
			n := serve(t, func(ctx context.Context) error {
				switch calls.Add(1) {
				case 1:
					return interceptors.Overloaded(ctx, codes.Unavailable, 10*time.Second)
				case 2:
					second = time.Now()
				case 3:
					third = time.Now()
				}
				return errUnavailable
			})
			do := idempotent(n.dial(newClient(t, policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
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
func TestCallCancelledInAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorder, tracer := traced()
		leaf := &counter{fail: always(errUnavailable)}
		do := idempotent(serve(t, leaf.handle).dial(newClient(t, tracer, policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
			Backoff: interceptors.Backoff{Base: time.Minute, Max: time.Minute, Jitter: interceptors.NoJitter},
		}})).DialOptions()...))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := do(ctx); reason(err) != interceptors.ReasonCancelled || status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
		compare(t, tree(recorder.Ended()), `
hopbound.call Idempotent [internal] Error {attempts=1 decision=not_retryable reason=cancelled rpc.response.status_code=CANCELLED}
  * hopbound.backoff {backoff_ms=60000 reason=backoff rpc.response.status_code=UNAVAILABLE}
  Idempotent [client] Error {attempt=1 budget.leased=5 budget.used=0 decision=not_retryable reason=cancelled rpc.response.status_code=UNAVAILABLE}
`)
	})
}
