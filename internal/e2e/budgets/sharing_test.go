package budgets_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestConcurrentCallsOfOneRequestShareItsTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		b := harness.FixedBudget(budget.Burst(100))
		down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetryUpTo(50), interceptors.WithBudget(b)).DialOptions()...))
		n := harness.Serve(t, func(ctx context.Context) error {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { _ = down(ctx) })
			}
			wg.Wait()
			return harness.ErrUnavailable
		}, harness.NewServer(t).ServerOptions()...)
		var trailer metadata.MD
		_ = harness.Idempotent(n.Dial())(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;b=7;a=1"), grpc.Trailer(&trailer))
		if calls := leaf.Calls.Load(); calls != 17 || !strings.HasPrefix(trailer[wire.ReportKey][0], "1;u=7;") {
			t.Errorf("%d calls of the leaf, report %v; want 10 and 7 extra, and u=7", calls, trailer[wire.ReportKey])
		}
	})
}

func TestRequestThatSpawnsWorkOfItsOwnHasARootForIt(t *testing.T) {
	t.Parallel()
	ctx, end := budget.NewRoot(t.Context(), harness.FixedBudget(budget.PerRequest(2)))
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget())).DialOptions()...))
	_ = do(ctx)
	_ = do(ctx)
	if calls := leaf.Calls.Load(); calls != 4 {
		t.Errorf("%d calls, want two and the root's two extra", calls)
	}
	end(false)
	_ = do(ctx) // the root has ended: the call is a root of its own
	if calls := leaf.Calls.Load(); calls != 7 {
		t.Errorf("%d calls, want 7", calls)
	}
}

func TestTargetIsGuardedAgainstManyRoots(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget(budget.Burst(5))))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...))
	for range 100 {
		ctx, end := budget.NewRoot(t.Context(), budget.New(budget.Burst(100)))
		_ = do(ctx)
		end(false)
	}
	if calls := leaf.Calls.Load(); calls != 105 {
		t.Errorf("%d calls, want 100 and the meter's 5", calls)
	}
}

// A client for each connection has a bucket for each, and clients that share a
// budget have one bucket for a target. Either way an outage is not amplified.
func TestOutageWithAClientForEachConnection(t *testing.T) {
	t.Parallel()
	const burst = 3 // the default
	shared := budget.New(budget.MinPerSecond(0))
	for name, tc := range map[string]struct {
		opts []interceptors.ClientOption
		most int64 // extra attempts
	}{
		"each with a budget of its own": {[]interceptors.ClientOption{harness.FastRetry()}, 10 * burst},
		"all with one budget":           {[]interceptors.ClientOption{harness.FastRetry(), interceptors.WithBudget(shared)}, burst},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
				n := harness.Serve(t, leaf.Handle)
				const connections, requests = 10, 100
				for range connections {
					do := harness.Idempotent(n.Dial(harness.NewClient(t, tc.opts...).DialOptions()...))
					for range requests {
						_ = do(t.Context())
					}
				}
				if extra := leaf.Calls.Load() - connections*requests; extra != tc.most {
					t.Errorf("%d extra calls of the leaf, want %d", extra, tc.most)
				}
			})
		})
	}
}

// A process that has just been started has too few tokens to decide for the hops
// above it.
func TestEmptyBucketMakesAFailureFinalUnlessItIsNew(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]bool{0: true, 2 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			b := harness.FixedBudget(budget.Burst(0))
			down := harness.Idempotent(harness.Serve(t, (&harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}).Handle).Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(b)).DialOptions()...))
			n := harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, harness.NewServer(t).ServerOptions()...)
			do := harness.Idempotent(n.Dial())
			_ = do(t.Context())
			time.Sleep(age)
			var trailer metadata.MD
			_ = do(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;b=5"), grpc.Trailer(&trailer))
			if r, ok := wire.ParseReport(trailer[wire.ReportKey][0]); !ok || r.NoTokens != want || trailer["grpc-retry-pushback-ms"][0] != "-1" {
				t.Errorf("%v after the first call: report %+v, trailer %v; want n=1: %v", age, r, trailer, want)
			}
		})
	}
}

func TestPanicOfAHandlerGivesBackWhatItHeld(t *testing.T) {
	t.Parallel()
	b := harness.FixedBudget()
	down := harness.Idempotent(harness.Serve(t, func(context.Context) error { return nil }).Dial(harness.NewClient(t, interceptors.WithBudget(b)).DialOptions()...))
	recovered := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (reply any, err error) {
		defer func() {
			if recover() != nil {
				err = status.Error(codes.Internal, "panicked")
			}
		}()
		return h(ctx, req)
	})
	n := harness.Serve(t, func(ctx context.Context) error {
		_ = down(ctx)
		panic("a bug")
	}, append([]grpc.ServerOption{recovered}, harness.NewServer(t).ServerOptions()...)...)
	if err := harness.Idempotent(n.Dial())(t.Context()); status.Code(err) != codes.Internal || harness.Balance(b) != 10 {
		t.Errorf("%v, balance %v; want INTERNAL and 10", err, harness.Balance(b))
	}
}
