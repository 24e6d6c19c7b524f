package interceptors_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// Interceptors that are installed twice make one client's attempts, and say so.
func TestInterceptorsOfAClientInstalledTwicePassCallsThrough(t *testing.T) {
	t.Parallel()
	for kind, do := range map[string]func(ctx context.Context, cc *grpc.ClientConn) error{
		"unary": func(ctx context.Context, cc *grpc.ClientConn) error { return idempotent(cc)(ctx) },
		"stream": func(ctx context.Context, cc *grpc.ClientConn) error {
			_, err := kinds()[0].exchange(ctx, cc, []string{"request"})
			return err
		},
	} {
		for name, p := range map[string]interceptors.ClientOption{
			"retried": quick(), "hedged": hedging(interceptors.HedgePolicy{MaxAttempts: 3, Delay: ms}),
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				leaf := &counter{fail: always(errUnavailable)}
				n := serveAll(t, leaf.handle)
				reader, meter := metered()
				recorder, tracer := traced()
				one := newClient(t, p, interceptors.WithBudget(fixedBudget()), tracer)
				other := newClient(t, p, interceptors.WithBudget(fixedBudget()), meter)
				for _, opts := range [][]grpc.DialOption{
					append(one.DialOptions(), one.DialOptions()...), append(one.DialOptions(), other.DialOptions()...),
				} {
					leaf.calls.Store(0)
					_ = do(t.Context(), n.dial(opts...))
					if got := leaf.calls.Load(); got != 3 {
						t.Errorf("%d calls of the leaf, want 3", got)
					}
				}
				if got := sums(t, reader, "hopbound.installed_twice"); len(got) != 1 {
					t.Errorf("counted %v, want one series", got)
				}
				if !strings.Contains(tree(recorder.Ended()), "installed_twice=true") {
					t.Errorf("no span says so:\n%s", tree(recorder.Ended()))
				}
			})
		}
	}
}

// A keyed call must not wait for itself.
func TestInterceptorsOfAServerInstalledTwicePassCallsThrough(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	var ran atomic.Int64
	b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error { ran.Add(1); return nil }}
	keyed := func() []grpc.ServerOption {
		return newServer(t, meter, interceptors.WithIdempotency(idempotency.NewMemory())).ServerOptions()
	}
	n := newNode(t, append(keyed(), keyed()...)...)
	testv1.RegisterTestServiceServer(n.server, b)
	n.start()
	ctx, cancel := context.WithTimeout(idempotency.WithKey(t.Context(), "an order"), 10*time.Second)
	defer cancel()
	c := testv1.NewTestServiceClient(n.dial(newClient(t).DialOptions()...))
	for range 2 {
		if _, err := c.Pay(ctx, rent()); err != nil {
			t.Fatal(err)
		}
	}
	if ran.Load() != 1 {
		t.Errorf("the handler ran %d times, want once", ran.Load())
	}
	if got := sums(t, reader, "hopbound.installed_twice"); len(got) != 1 {
		t.Errorf("counted %v, want one series", got)
	}
}

// The context of a stream belongs to the application. What it calls with it is another
// call.
func TestCallWithTheContextOfAStreamIsACallOfItsOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		n := serveStreams(t, func(s side, ss grpc.ServerStream) error {
			if calls.Add(1) == 1 {
				_ = s.send("first")
				<-ss.Context().Done()
				return ss.Context().Err()
			}
			return errUnavailable
		})
		cc := n.dial(newClient(t, quick()).DialOptions()...)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s, err := kinds()[0].open(ctx, cc)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.send("request")
		_, _ = s.recv()
		_, _ = kinds()[0].exchange(s.Context(), cc, []string{"request"})
		if got := calls.Load() - 1; got != 3 {
			t.Errorf("%d attempts, want 3", got)
		}
		cancel()
		_, _ = s.recv()
	})
}

// A handler that calls with a context other than its own loses the request on the way.
func TestCallsThatBelongToNoRequestAreCounted(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	down := idempotent(serve(t, func(context.Context) error { return nil }).dial(newClient(t, meter).DialOptions()...))
	for _, lost := range []bool{false, true} {
		n := serve(t, func(ctx context.Context) error {
			if lost {
				ctx = context.Background()
			}
			return down(ctx)
		}, newServer(t).ServerOptions()...)
		if err := idempotent(n.dial(newClient(t).DialOptions()...))(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := sums(t, reader, "hopbound.client.roots")
		if (len(got) == 1) != lost {
			t.Errorf("context lost %v: counted %v", lost, got)
		}
	}
}
