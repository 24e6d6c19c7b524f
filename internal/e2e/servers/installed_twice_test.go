package servers_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// Interceptors that are installed twice make one client's attempts, and say so.
func TestInterceptorsOfAClientInstalledTwicePassCallsThrough(t *testing.T) {
	t.Parallel()
	for kind, do := range map[string]func(ctx context.Context, cc *grpc.ClientConn) error{
		"unary": func(ctx context.Context, cc *grpc.ClientConn) error { return harness.Idempotent(cc)(ctx) },
		"stream": func(ctx context.Context, cc *grpc.ClientConn) error {
			_, err := harness.Kinds()[0].Exchange(ctx, cc, []string{"request"})
			return err
		},
	} {
		for name, p := range map[string]interceptors.ClientOption{
			"retried": harness.FastRetry(), "hedged": harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 3, Delay: ms}),
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
				n := harness.ServeAll(t, leaf.Handle)
				reader, meter := harness.Metered()
				recorder, tracer := harness.Traced()
				one := harness.NewClient(t, p, interceptors.WithBudget(harness.FixedBudget()), tracer)
				other := harness.NewClient(t, p, interceptors.WithBudget(harness.FixedBudget()), meter)
				for _, opts := range [][]grpc.DialOption{
					append(one.DialOptions(), one.DialOptions()...), append(one.DialOptions(), other.DialOptions()...),
				} {
					leaf.Calls.Store(0)
					_ = do(t.Context(), n.Dial(opts...))
					if got := leaf.Calls.Load(); got != 3 {
						t.Errorf("%d calls of the leaf, want 3", got)
					}
				}
				if got := harness.Sums(t, reader, "hopbound.installed_twice"); len(got) != 1 {
					t.Errorf("counted %v, want one series", got)
				}
				if !strings.Contains(harness.Tree(recorder.Ended()), "installed_twice=true") {
					t.Errorf("no span says so:\n%s", harness.Tree(recorder.Ended()))
				}
			})
		}
	}
}

// A keyed call must not wait for itself.
func TestInterceptorsOfAServerInstalledTwicePassCallsThrough(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	var ran atomic.Int64
	b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { ran.Add(1); return nil }}
	keyed := func() []grpc.ServerOption {
		return harness.NewServer(t, meter, interceptors.WithIdempotency(idempotency.NewMemory())).ServerOptions()
	}
	n := harness.NewNode(t, append(keyed(), keyed()...)...)
	testv1.RegisterTestServiceServer(n.Server, b)
	n.Start()
	ctx, cancel := context.WithTimeout(idempotency.WithKey(t.Context(), "an order"), 10*time.Second)
	defer cancel()
	c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t).DialOptions()...))
	for range 2 {
		if _, err := c.Pay(ctx, harness.Rent()); err != nil {
			t.Fatal(err)
		}
	}
	if ran.Load() != 1 {
		t.Errorf("the handler ran %d times, want once", ran.Load())
	}
	if got := harness.Sums(t, reader, "hopbound.installed_twice"); len(got) != 1 {
		t.Errorf("counted %v, want one series", got)
	}
}

// The context of a stream belongs to the application. What it calls with it is another
// call.
func TestCallWithTheContextOfAStreamIsACallOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			if calls.Add(1) == 1 {
				_ = s.Send("first")
				<-ss.Context().Done()
				return ss.Context().Err()
			}
			return harness.ErrUnavailable
		})
		cc := n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := harness.Kinds()[0].Open(ctx, cc)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send("request")
		_, _ = s.Recv()
		_, _ = harness.Kinds()[0].Exchange(s.Context(), cc, []string{"request"})
		if got := calls.Load() - 1; got != 3 {
			t.Errorf("%d attempts, want 3", got)
		}
		cancel()
		_, _ = s.Recv()
	})
}

// A handler that calls with a context other than its own loses the request on the way.
func TestCallsThatBelongToNoRequestAreCounted(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	down := harness.Idempotent(harness.Serve(t, func(context.Context) error { return nil }).Dial(harness.NewClient(t, meter).DialOptions()...))
	for _, lost := range []bool{false, true} {
		n := harness.Serve(t, func(ctx context.Context) error {
			if lost {
				ctx = context.Background()
			}
			return down(ctx)
		}, harness.NewServer(t).ServerOptions()...)
		if err := harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...))(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := harness.Sums(t, reader, "hopbound.client.roots")
		if (len(got) == 1) != lost {
			t.Errorf("context lost %v: counted %v", lost, got)
		}
	}
}
