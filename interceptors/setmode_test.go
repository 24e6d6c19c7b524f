package interceptors_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	testService      = "/hopbound.test.v1.TestService/"
	idempotentMethod = testService + "Idempotent"
)

func TestModeOfAClientChangesAtRunTime(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: always(errUnavailable)}
	client := newClient(t, quick(), interceptors.WithBudget(fixedBudget(budget.Burst(100))))
	do := idempotent(serve(t, leaf.handle).dial(client.DialOptions()...))
	for _, step := range []struct {
		mode  interceptors.Mode
		names []string
		want  int64
	}{
		{interceptors.Enforce, nil, 3},
		{interceptors.Observe, nil, 1},
		{interceptors.Enforce, []string{idempotentMethod}, 3},
		{interceptors.Observe, []string{testService}, 3}, // the method's own mode counts
		{interceptors.Observe, []string{"/another.Service/", idempotentMethod}, 1},
		{interceptors.Enforce, nil, 3}, // and forgets the methods
		{interceptors.Observe, []string{testService}, 1},
		{interceptors.Enforce, []string{testService}, 3},
		{interceptors.Observe, []string{testService + "Write"}, 3},
	} {
		if err := client.SetMode(step.mode, step.names...); err != nil {
			t.Fatal(err)
		}
		before := leaf.calls.Load()
		_ = do(t.Context())
		if got := leaf.calls.Load() - before; got != step.want {
			t.Errorf("%v %v: %d attempts, want %d", step.mode, step.names, got, step.want)
		}
	}
}

func TestModeThatIsInvalidChangesNothing(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: always(errUnavailable)}
	client, server := newClient(t, quick()), newServer(t, interceptors.WithFloor(time.Hour))
	do := idempotent(serve(t, leaf.handle).dial(client.DialOptions()...))
	refused := idempotent(serve(t, leaf.handle, server.ServerOptions()...).dial())
	for _, set := range []func(interceptors.Mode, ...string) error{client.SetMode, server.SetMode} {
		for _, names := range [][]string{{""}, {"shop.v1.Orders/Get"}, {idempotentMethod, "/"}, {"Get"}} {
			if err := set(interceptors.Observe, names...); err == nil {
				t.Errorf("%q: no error", names)
			}
		}
		if err := set(7); err == nil {
			t.Error("mode 7: no error")
		}
		if err := set(interceptors.Observe, []string{}...); err == nil { // a list that was not read, perhaps
			t.Error("an empty list: no error")
		}
	}
	if _ = do(t.Context()); leaf.calls.Load() != 3 {
		t.Errorf("%d attempts, want 3", leaf.calls.Load())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	wantError(t, refused(ctx), codes.DeadlineExceeded, interceptors.ReasonDeadlineUnreachable)
}

func TestModeOfAServerChangesAtRunTime(t *testing.T) {
	t.Parallel()
	server := newServer(t, interceptors.WithFloor(time.Hour))
	do := idempotent(serve(t, func(context.Context) error { return nil }, server.ServerOptions()...).dial())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, step := range []struct {
		mode  interceptors.Mode
		names []string
		want  codes.Code
	}{
		{interceptors.Enforce, nil, codes.DeadlineExceeded},
		{interceptors.Observe, []string{idempotentMethod}, codes.OK},
		{interceptors.Enforce, nil, codes.DeadlineExceeded},
		{interceptors.Observe, nil, codes.OK},
	} {
		if err := server.SetMode(step.mode, step.names...); err != nil {
			t.Fatal(err)
		}
		if err := do(ctx); status.Code(err) != step.want {
			t.Errorf("%v %v: %v, want %v", step.mode, step.names, err, step.want)
		}
	}
}

func TestCallKeepsTheModeThatItStartedWith(t *testing.T) {
	t.Parallel()
	for from, want := range map[interceptors.Mode]int64{interceptors.Enforce: 3, interceptors.Observe: 1} {
		client := newClient(t, quick(), interceptors.WithMode(from))
		leaf := &counter{fail: always(errUnavailable)}
		do := idempotent(serve(t, func(ctx context.Context) error {
			_ = client.SetMode(1 - from)
			return leaf.handle(ctx)
		}).dial(client.DialOptions()...))
		if _ = do(t.Context()); leaf.calls.Load() != want {
			t.Errorf("started in %v: %d attempts, want %d", from, leaf.calls.Load(), want)
		}
	}
}

// A write that was claimed is completed, and one that was not is not.
func TestWriteKeepsTheModeThatItStartedWith(t *testing.T) {
	t.Parallel()
	for from, want := range map[interceptors.Mode]string{
		interceptors.Enforce: "payment 1 of rent", interceptors.Observe: "payment 2 of rent",
	} {
		server := newServer(t, interceptors.WithMode(from), interceptors.WithIdempotency(idempotency.NewMemory()))
		b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
			return server.SetMode(1 - from)
		}}
		n := newNode(t, server.ServerOptions()...)
		testv1.RegisterTestServiceServer(n.server, b)
		n.start()
		if _, err := n.customer().pay(t.Context(), "k", rent()); err != nil {
			t.Fatal(err)
		}
		_ = server.SetMode(interceptors.Enforce)
		if got, err := n.customer().pay(t.Context(), "k", rent()); err != nil || got != want {
			t.Errorf("started in %v: got %q, %v, want %q", from, got, err, want)
		}
	}
}

// What a client would have spent while it observed is not missing when it enforces.
func TestBudgetsOfTheTwoModesAreApart(t *testing.T) {
	t.Parallel()
	b := fixedBudget()
	leaf := &counter{fail: always(errUnavailable)}
	client := newClient(t, quick(), interceptors.WithBudget(b))
	do := idempotent(serve(t, leaf.handle).dial(client.DialOptions()...))
	_ = client.SetMode(interceptors.Observe)
	for range 20 {
		_ = do(t.Context())
	}
	_ = client.SetMode(interceptors.Enforce)
	if _ = do(t.Context()); leaf.calls.Load() != 23 || balance(b) != 8 {
		t.Errorf("%d attempts, balance %v, want 23 and 8", leaf.calls.Load(), balance(b))
	}
}

// gRPC's own retries cannot be turned off on a connection that has them. Both together
// would make nine attempts.
func TestConnectionDialledWhileObservingKeepsGRPCsRetriesAlone(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: always(errUnavailable)}
	client := newClient(t, quick(), interceptors.WithMode(interceptors.Observe))
	do := idempotent(serve(t, leaf.handle).dial(append(client.DialOptions(), native())...))
	_ = client.SetMode(interceptors.Enforce)
	for i := range 2 { // the service config is known from the first on
		before := leaf.calls.Load()
		_ = do(t.Context())
		if got := leaf.calls.Load() - before; got != 3 {
			t.Errorf("call %d: %d attempts, want 3", i+1, got)
		}
	}
	alone := idempotent(serve(t, leaf.handle).dial(client.DialOptions()...))
	before := leaf.calls.Load()
	if _ = alone(t.Context()); leaf.calls.Load()-before != 3 {
		t.Errorf("without a service config: %d attempts, want 3", leaf.calls.Load()-before)
	}
}

func TestModeMayChangeWhileCallsAreMade(t *testing.T) {
	t.Parallel()
	client, server := newClient(t, quick()), newServer(t)
	do := idempotent(serve(t, func(context.Context) error { return nil }, server.ServerOptions()...).dial(client.DialOptions()...))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if err := do(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 100 {
		_ = client.SetMode(interceptors.Mode(i % 2))
		_ = server.SetMode(interceptors.Mode(i%2), idempotentMethod)
	}
	wg.Wait()
}

// What is dialled while the client enforces is Hopbound's to retry, whatever was dialled
// before.
func TestConnectionDialledAfterEnforcingIsRetriedByHopbound(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: always(errUnavailable)}
	n := serve(t, leaf.handle)
	client := newClient(t, interceptors.WithMode(interceptors.Observe))
	_ = client.DialOptions() // of a connection that keeps gRPC's own retries
	_ = client.SetMode(interceptors.Enforce)
	do := idempotent(n.dial(append(client.DialOptions(), native())...))
	if _ = do(t.Context()); leaf.calls.Load() != 3 {
		t.Errorf("%d attempts, want 3", leaf.calls.Load())
	}
}

// A failure that gRPC has retried in vain is marked, as one that Hopbound has.
func TestFailureThatGRPCHasRetriedIsMarked(t *testing.T) {
	t.Parallel()
	const config = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,"retryableStatusCodes":["RESOURCE_EXHAUSTED"]}}]}`
	for _, dialled := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		leaf := &counter{fail: always(status.Error(codes.ResourceExhausted, "busy"))}
		client := newClient(t, interceptors.WithMode(dialled))
		down := idempotent(serve(t, leaf.handle).dial(append(client.DialOptions(), grpc.WithDefaultServiceConfig(config))...))
		_ = client.SetMode(interceptors.Enforce)
		n := serve(t, func(ctx context.Context) error {
			if down(ctx) != nil {
				return status.Error(codes.Unavailable, "cannot answer")
			}
			return nil
		}, newServer(t).ServerOptions()...)
		var trailer metadata.MD
		_ = idempotent(n.dial())(t.Context(), grpc.Trailer(&trailer))
		if got := trailer["grpc-retry-pushback-ms"]; leaf.calls.Load() != 3 || !slices.Equal(got, []string{"-1"}) {
			t.Errorf("dialled in %v: %d calls, pushback %q, want 3 and -1", dialled, leaf.calls.Load(), got)
		}
	}
}

// The number of a handler's call, which its child key is made of, does not depend on the
// mode of earlier calls.
func TestChildKeysDoNotDependOnTheMode(t *testing.T) {
	t.Parallel()
	client := newClient(t, quick(), observing())
	down := testv1.NewTestServiceClient((&bank{}).open(t, idempotency.NewMemory()).dial(client.DialOptions()...))
	shop := &bank{pay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		for _, account := range []string{"one", "two"} {
			if _, err := down.Pay(ctx, &testv1.PayRequest{Account: account}); err != nil {
				return err
			}
			_ = client.SetMode(interceptors.Enforce)
		}
		if n == 1 {
			return errUnavailable
		}
		return nil
	}}
	c := shop.open(t, idempotency.NewMemory()).customer()
	_, _ = c.pay(t.Context(), "k", rent())
	if _, err := c.pay(t.Context(), "k", rent()); err != nil {
		t.Errorf("the second time: %v", err)
	}
}
