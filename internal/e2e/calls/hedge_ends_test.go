package calls_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A hedged call leaves nothing with the context that it was made with.
func TestHedgedCallLeavesNothingWithItsContext(t *testing.T) {
	n := harness.Serve(t, func(context.Context) error { return nil })
	do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{Delay: time.Hour})).DialOptions()...))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := do(ctx); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	for range 200 {
		if err := do(foreign{ctx}); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before+50; runtime.Gosched() {
		if time.Now().After(end) { // each that is left has a goroutine
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}

// Hedges that waited for a connection in vain cost nothing.
func TestHedgesThatReachNobodyCostNothing(t *testing.T) {
	t.Parallel()
	for _, attempts := range []int{2, 3, 4} {
		synctest.Test(t, func(t *testing.T) {
			n := harness.Serve(t, func(context.Context) error { return nil })
			n.Refused.Store(1 << 30)
			b := harness.FixedBudget()
			before := harness.Balance(b)
			do := harness.Idempotent(n.Dial(harness.NewClient(t, interceptors.WithBudget(b), harness.Hedging(interceptors.HedgePolicy{MaxAttempts: attempts, Delay: 10 * ms})).DialOptions()...))
			if err := harness.Within(t, do, 200*ms, grpc.WaitForReady(true)); status.Code(err) != codes.DeadlineExceeded || harness.Balance(b) != before {
				t.Errorf("%d attempts: %v, balance %v of %v", attempts, err, harness.Balance(b), before)
			}
		})
	}
}

// A failure that is fatal ends a hedged call whatever the server says of
// retrying.
func TestFatalFailureEndsAHedgedCallAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		n := harness.Serve(t, func(ctx context.Context) error {
			if served.Add(1) == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return interceptors.DoNotRetry(ctx, status.Error(codes.NotFound, ""))
		}, harness.NewServer(t).ServerOptions()...)
		began := time.Now()
		err := harness.Within(t, harness.Idempotent(n.Dial(harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{Delay: 100 * ms})).DialOptions()...)), time.Hour)
		if status.Code(err) != codes.NotFound || time.Since(began) != 100*ms {
			t.Errorf("%v after %v, want NOT_FOUND after 100 ms", err, time.Since(began))
		}
	})
}

// A stream that would be hedged takes its request whenever that comes, and only
// one.
func TestHedgedStreamWaitsForItsRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := harness.NewLeaks()
		n := harness.ServeStreams(t, harness.ReplyJoined)
		cc := n.Dial(l.Client(t, harness.Hedging(interceptors.HedgePolicy{Delay: time.Second}))...)
		s, err := harness.Kinds()[0].Open(t.Context(), cc, l.OnFinish())
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() {
			_, err := s.All()
			got <- err
		}()
		synctest.Wait()
		_ = s.Send("a")
		if err := <-got; err != nil {
			t.Error(err)
		}
		if err := s.Send("b"); status.Code(err) != codes.Internal {
			t.Errorf("a second request: %v, want INTERNAL", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := harness.Kinds()[0].Open(ctx, cc, l.OnFinish()); err != nil {
			t.Fatal(err)
		}
		cancel() // before there is a request
		synctest.Wait()
		l.CheckNoneLeft(t, 2)
	})
}
