package calls_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// foreign is a context that package context does not know the inside of. It
// keeps a goroutine for every context that is derived from one and has not been
// cancelled, and so shows those that are forgotten, timers and all.
type foreign struct{ context.Context }

// Value hides the cancel function that package context looks for behind a key
// of its own, a pointer to an int.
func (f foreign) Value(key any) any {
	if _, own := key.(*int); own {
		return nil
	}
	return f.Context.Value(key)
}

// TestNothingIsLeftOfTenThousandCalls makes calls that succeed, fail, time out
// and are cancelled at random, down a chain. At its end the bubble fails the
// test if a goroutine is left in it.
func TestNothingIsLeftOfTenThousandCalls(t *testing.T) {
	t.Parallel()
	succeed := func(context.Context) error { return nil }
	fail := func(context.Context) error { return harness.ErrUnavailable }
	notFound := func(context.Context) error { return status.Error(codes.NotFound, "") }
	slow := func(context.Context) error { time.Sleep(10 * ms); return nil }
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, tc := range map[string]struct {
		unit     time.Duration // of all timeouts
		outcomes []harness.Handler
		want     []codes.Code
	}{
		"that time out": {
			ms,
			[]harness.Handler{succeed, fail, notFound, slow, hang},
			[]codes.Code{codes.OK, codes.Canceled, codes.NotFound, codes.Unavailable, codes.DeadlineExceeded},
		},
		// A timer that is forgotten here has not fired by the end of the test.
		"with hours to go": {
			time.Hour,
			[]harness.Handler{succeed, fail, notFound, slow},
			[]codes.Code{codes.OK, codes.Canceled, codes.NotFound, codes.Unavailable},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { leaveNothing(t, tc.unit, tc.outcomes, tc.want) })
		})
	}
}

func leaveNothing(t *testing.T, unit time.Duration, outcomes []harness.Handler, want []codes.Code) {
	t.Helper()
	spans := &harness.SpanCounter{}
	tracer := interceptors.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	const tokens = 50_000
	b := budget.New(budget.Burst(100_000), budget.PerRequest(tokens), budget.Ratio(0), budget.MinPerSecond(0))
	client := func() interceptors.ClientOption {
		return harness.Policy(interceptors.Policy{
			Timeout: 80 * unit, AttemptTimeout: 30 * unit,
			Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: ms, Max: 4 * ms}},
		})
	}
	server := func() []grpc.ServerOption {
		return harness.NewServer(t, tracer, interceptors.WithMaxDeadline(20*unit)).ServerOptions()
	}
	n := harness.Serve(t, func(ctx context.Context) error { return outcomes[rand.IntN(len(outcomes))](ctx) }, server()...)
	for range 2 {
		down := harness.Idempotent(n.Dial(harness.NewClient(t, client(), tracer).DialOptions()...))
		n = harness.Serve(t, func(ctx context.Context) error { return down(foreign{ctx}) }, server()...)
	}
	do := harness.Idempotent(n.Dial(harness.NewClient(t, client(), tracer, interceptors.WithBudget(b)).DialOptions()...))
	const calls, workers = 10_000, 50
	never, cancel := context.WithCancel(context.Background())
	runtime.KeepAlive(cancel) // but not called: nothing may wait for it
	root, end := budget.NewRoot(never, b)
	defer end(false)
	endless := foreign{root}
	var (
		wg     sync.WaitGroup
		counts [17]atomic.Int64
	)
	for range workers {
		wg.Go(func() {
			for i := range calls / workers {
				ctx, cancel := context.Context(endless), context.CancelFunc(func() {})
				switch i % 3 {
				case 0:
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(100))*unit)
				case 1:
					ctx, cancel = context.WithCancel(ctx)
					time.AfterFunc(time.Duration(rand.IntN(20))*ms, cancel)
				}
				counts[status.Code(do(ctx))].Add(1)
				cancel()
			}
		})
	}
	wg.Wait()
	time.Sleep(time.Second) // for servers whose callers have gone
	for _, code := range want {
		if counts[code].Load() == 0 {
			t.Errorf("no call ended with %v: the test shows less than it says", code)
		}
		t.Logf("%v: %d", code, counts[code].Load())
	}
	if started, ended := spans.Started.Load(), spans.Ended.Load(); started != ended || started < calls {
		t.Errorf("%d spans were started and %d ended", started, ended)
	}
	// Nothing is earned, and all calls belong to one root, so that what is neither free
	// nor used is still lent.
	if a, _ := budget.FromContext(root); a.Free()+a.Used() != tokens {
		t.Errorf("%d tokens are free and %d used of %d", a.Free(), a.Used(), tokens)
	}
}
