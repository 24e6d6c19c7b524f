package modes_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
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
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget(budget.Burst(100))))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...))
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
		before := leaf.Calls.Load()
		_ = do(t.Context())
		if got := leaf.Calls.Load() - before; got != step.want {
			t.Errorf("%v %v: %d attempts, want %d", step.mode, step.names, got, step.want)
		}
	}
}

func TestModesAreReplacedTogether(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	client, server := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(harness.FixedBudget(budget.Burst(100)))), harness.NewServer(t, interceptors.WithFloor(time.Hour))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...))
	toServer := harness.Idempotent(harness.Serve(t, func(context.Context) error { return nil }, server.ServerOptions()...).Dial())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, step := range []struct {
		mode    interceptors.Mode
		byName  map[string]interceptors.Mode
		valid   bool
		observe bool
	}{
		{interceptors.Observe, nil, true, true},
		{interceptors.Observe, map[string]interceptors.Mode{testService: interceptors.Enforce}, true, false},
		{interceptors.Enforce, map[string]interceptors.Mode{testService: interceptors.Enforce, idempotentMethod: interceptors.Observe}, true, true},
		{interceptors.Enforce, map[string]interceptors.Mode{"/another.Service/": interceptors.Observe}, true, false}, // forgets the method
		{7, map[string]interceptors.Mode{idempotentMethod: interceptors.Observe}, false, false},
		{interceptors.Observe, map[string]interceptors.Mode{idempotentMethod: 7}, false, false},
		{interceptors.Observe, map[string]interceptors.Mode{"": interceptors.Observe}, false, false},
		{interceptors.Observe, map[string]interceptors.Mode{"Get": interceptors.Observe}, false, false},
	} {
		if client, server := client.SetModes(step.mode, step.byName), server.SetModes(step.mode, step.byName); (client == nil) != step.valid || (server == nil) != step.valid {
			t.Errorf("%v %v: %v, %v", step.mode, step.byName, client, server)
		}
		want := map[bool]int64{true: 1, false: 3}[step.observe]
		before := leaf.Calls.Load()
		_ = do(t.Context())
		if got := leaf.Calls.Load() - before; got != want {
			t.Errorf("%v %v: %d attempts, want %d", step.mode, step.byName, got, want)
		}
		if err := toServer(ctx); (err == nil) != step.observe {
			t.Errorf("%v %v: the server returned %v", step.mode, step.byName, err)
		}
	}
}

func TestModeThatIsInvalidChangesNothing(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	client, server := harness.NewClient(t, harness.FastRetry()), harness.NewServer(t, interceptors.WithFloor(time.Hour))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...))
	refused := harness.Idempotent(harness.Serve(t, leaf.Handle, server.ServerOptions()...).Dial())
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
	if _ = do(t.Context()); leaf.Calls.Load() != 3 {
		t.Errorf("%d attempts, want 3", leaf.Calls.Load())
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	harness.WantError(t, refused(ctx), codes.DeadlineExceeded, interceptors.ReasonDeadlineUnreachable)
}

func TestModeOfAServerChangesAtRunTime(t *testing.T) {
	t.Parallel()
	server := harness.NewServer(t, interceptors.WithFloor(time.Hour))
	do := harness.Idempotent(harness.Serve(t, func(context.Context) error { return nil }, server.ServerOptions()...).Dial())
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
		client := harness.NewClient(t, harness.FastRetry(), interceptors.WithMode(from))
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		do := harness.Idempotent(harness.Serve(t, func(ctx context.Context) error {
			_ = client.SetMode(1 - from)
			return leaf.Handle(ctx)
		}).Dial(client.DialOptions()...))
		if _ = do(t.Context()); leaf.Calls.Load() != want {
			t.Errorf("started in %v: %d attempts, want %d", from, leaf.Calls.Load(), want)
		}
	}
}

// A write that was claimed is completed, and one that was not is not.
func TestWriteKeepsTheModeThatItStartedWith(t *testing.T) {
	t.Parallel()
	for from, want := range map[interceptors.Mode]string{
		interceptors.Enforce: "payment 1 of rent", interceptors.Observe: "payment 2 of rent",
	} {
		server := harness.NewServer(t, interceptors.WithMode(from), interceptors.WithIdempotency(idempotency.NewMemory()))
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			return server.SetMode(1 - from)
		}}
		n := harness.NewNode(t, server.ServerOptions()...)
		testv1.RegisterTestServiceServer(n.Server, b)
		n.Start()
		if _, err := n.Customer().PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
			t.Fatal(err)
		}
		_ = server.SetMode(interceptors.Enforce)
		if got, err := n.Customer().PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != want {
			t.Errorf("started in %v: got %q, %v, want %q", from, got, err, want)
		}
	}
}

// What a client would have spent while it observed is not missing when it enforces.
func TestBudgetsOfTheTwoModesAreApart(t *testing.T) {
	t.Parallel()
	b := harness.FixedBudget()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	client := harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(b))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...))
	_ = client.SetMode(interceptors.Observe)
	for range 20 {
		_ = do(t.Context())
	}
	_ = client.SetMode(interceptors.Enforce)
	if _ = do(t.Context()); leaf.Calls.Load() != 23 || harness.Balance(b) != 8 {
		t.Errorf("%d attempts, balance %v, want 23 and 8", leaf.Calls.Load(), harness.Balance(b))
	}
}

// gRPC's own retries cannot be turned off on a connection that has them. Both together
// would make nine attempts.
func TestConnectionDialledWhileObservingKeepsGRPCsRetriesAlone(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	var log bytes.Buffer
	client := harness.NewClient(t, harness.FastRetry(), interceptors.WithMode(interceptors.Observe),
		interceptors.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
	do := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(append(client.DialOptions(), harness.NativeRetry())...))
	if _ = do(t.Context()); log.Len() > 0 {
		t.Errorf("a call that is observed logs %s", log.String())
	}
	_ = client.SetMode(interceptors.Enforce)
	for i := range 2 { // the service config is known from the first on
		before := leaf.Calls.Load()
		_ = do(t.Context())
		if got := leaf.Calls.Load() - before; got != 3 {
			t.Errorf("call %d: %d attempts, want 3", i+1, got)
		}
	}
	if lines := strings.Count(log.String(), "gRPC retries this method"); lines != 1 {
		t.Errorf("%d warnings, want one: %s", lines, log.String())
	}
	alone := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(client.DialOptions()...))
	before := leaf.Calls.Load()
	if _ = alone(t.Context()); leaf.Calls.Load()-before != 3 {
		t.Errorf("without a service config: %d attempts, want 3", leaf.Calls.Load()-before)
	}
}

func TestModeMayChangeWhileCallsAreMade(t *testing.T) {
	t.Parallel()
	client, server := harness.NewClient(t, harness.FastRetry()), harness.NewServer(t)
	do := harness.Idempotent(harness.Serve(t, func(context.Context) error { return nil }, server.ServerOptions()...).Dial(client.DialOptions()...))
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
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	n := harness.Serve(t, leaf.Handle)
	client := harness.NewClient(t, interceptors.WithMode(interceptors.Observe))
	_ = client.DialOptions() // of a connection that keeps gRPC's own retries
	_ = client.SetMode(interceptors.Enforce)
	do := harness.Idempotent(n.Dial(append(client.DialOptions(), harness.NativeRetry())...))
	if _ = do(t.Context()); leaf.Calls.Load() != 3 {
		t.Errorf("%d attempts, want 3", leaf.Calls.Load())
	}
}

// A failure that gRPC has retried in vain is marked, as one that Hopbound has.
func TestFailureThatGRPCHasRetriedIsMarked(t *testing.T) {
	t.Parallel()
	const config = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,"retryableStatusCodes":["RESOURCE_EXHAUSTED"]}}]}`
	for _, dialled := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(status.Error(codes.ResourceExhausted, "busy"))}
		client := harness.NewClient(t, interceptors.WithMode(dialled))
		down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(append(client.DialOptions(), grpc.WithDefaultServiceConfig(config))...))
		_ = client.SetMode(interceptors.Enforce)
		n := harness.Serve(t, func(ctx context.Context) error {
			if down(ctx) != nil {
				return status.Error(codes.Unavailable, "cannot answer")
			}
			return nil
		}, harness.NewServer(t).ServerOptions()...)
		var trailer metadata.MD
		_ = harness.Idempotent(n.Dial())(t.Context(), grpc.Trailer(&trailer))
		if got := trailer["grpc-retry-pushback-ms"]; leaf.Calls.Load() != 3 || !slices.Equal(got, []string{"-1"}) {
			t.Errorf("dialled in %v: %d calls, pushback %q, want 3 and -1", dialled, leaf.Calls.Load(), got)
		}
	}
}

// The number of a handler's call, which its child key is made of, does not depend on the
// mode of earlier calls.
func TestChildKeysDoNotDependOnTheMode(t *testing.T) {
	t.Parallel()
	client := harness.NewClient(t, harness.FastRetry(), observing())
	down := testv1.NewTestServiceClient((&harness.Bank{}).Open(t, idempotency.NewMemory()).Dial(client.DialOptions()...))
	shop := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		for _, account := range []string{"one", "two"} {
			if _, err := down.Pay(ctx, &testv1.PayRequest{Account: account}); err != nil {
				return err
			}
			_ = client.SetMode(interceptors.Enforce)
		}
		if n == 1 {
			return harness.ErrUnavailable
		}
		return nil
	}}
	c := shop.Open(t, idempotency.NewMemory()).Customer()
	_, _ = c.PayWithKey(t.Context(), "k", harness.Rent())
	if _, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
		t.Errorf("the second time: %v", err)
	}
}
