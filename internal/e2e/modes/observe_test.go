package modes_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestClientThatObservesChangesNothingAndCountsWhatItWouldHaveDone(t *testing.T) {
	t.Parallel()
	var headers atomic.Value
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	n := harness.Serve(t, func(ctx context.Context) error {
		headers.Store(metadata.ValueFromIncomingContext(ctx, wire.ContextKey))
		return leaf.Handle(ctx)
	})
	reader, meter := harness.Metered()
	b := harness.FixedBudget()
	do := harness.Idempotent(n.Dial(harness.NewClient(t, interceptors.WithMode(interceptors.Observe), interceptors.WithBudget(b), meter).DialOptions()...))
	_ = do(t.Context())
	if leaf.Calls.Load() != 1 || harness.Balance(b) != 10 {
		t.Errorf("%d calls, balance %v; want 1 and 10", leaf.Calls.Load(), harness.Balance(b))
	}
	values, _ := headers.Load().([]string)
	h, ok := wire.ParseContext(strings.Join(values, ","))
	if !ok || !h.HasSent || h.HasBudget {
		t.Errorf("sent %+v, want a time and no budget", h)
	}
	want := "grpc.target=passthrough:///node,hopbound.decision=retried,hopbound.mode=observe,hopbound.reached=true"
	if got := harness.Sums(t, reader, "hopbound.client.attempts"); got[want] != 1 {
		t.Errorf("counted %v, want one %s", got, want)
	}
}

// It has tokens of its own to judge by: those of the request are for the clients that
// retry.
func TestClientThatObservesLeavesTheRequestItsTokens(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	n := harness.Serve(t, leaf.Handle)
	observing := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithMode(interceptors.Observe)).DialOptions()...))
	retrying := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetryUpTo(10), interceptors.WithBudget(harness.FixedBudget())).DialOptions()...))
	ctx, end := budget.NewRoot(t.Context(), harness.FixedBudget())
	defer end(false)
	for range 5 {
		_ = observing(ctx)
	}
	observed := leaf.Calls.Load()
	_ = retrying(ctx)
	if got := leaf.Calls.Load() - observed; observed != 5 || got != 4 {
		t.Errorf("%d calls of the one that observes and %d of the other, want 5 and 4", observed, got)
	}
}

// A team that has gRPC's own retries keeps them while it observes.
func TestClientThatObservesLeavesGRPCsOwnRetriesOn(t *testing.T) {
	t.Parallel()
	for mode, want := range map[interceptors.Mode]int64{interceptors.Observe: 3, interceptors.Enforce: 1} {
		leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
		client := harness.NewClient(t, interceptors.WithMode(mode), harness.FastRetryUpTo(1))
		_ = harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(append(client.DialOptions(), harness.NativeRetry())...))(t.Context())
		if got := leaf.Calls.Load(); got != want {
			t.Errorf("%v: %d calls, want %d", mode, got, want)
		}
	}
}

func TestServerThatObservesRefusesNothingAndMarksNothing(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
	n := harness.Serve(t, func(ctx context.Context) error { return down(ctx) },
		harness.NewServer(t, interceptors.WithMode(interceptors.Observe), interceptors.WithFloor(time.Hour), meter).ServerOptions()...)
	ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=2;a=1")
	var trailer metadata.MD
	if err := harness.Idempotent(n.Dial())(ctx, grpc.Trailer(&trailer)); status.Convert(err).Message() != "the leaf is down" {
		t.Errorf("got %v, want the leaf's own error", err)
	}
	if leaf.Calls.Load() != 3 || len(trailer["grpc-retry-pushback-ms"]) != 0 || !strings.HasPrefix(trailer["hop-report"][0], "1;u=2;") {
		t.Errorf("%d calls, trailer %v; want 3 calls, a report of 2 used and no mark", leaf.Calls.Load(), trailer)
	}
	want := "grpc.method=hopbound.test.v1.TestService/Idempotent,hopbound.mode=observe,hopbound.reason=DEADLINE_EXPIRED,hopbound.side=server"
	if got := harness.Sums(t, reader, "hopbound.refusals"); got[want] != 1 {
		t.Errorf("counted %v, want one %s", got, want)
	}
}
