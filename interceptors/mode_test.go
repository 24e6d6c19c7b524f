package interceptors_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/wire"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// sums returns the counts of a counter by its attributes, written k=v,k=v in
// the order of their keys.
func sums(t *testing.T, reader *sdkmetric.ManualReader, name string) map[string]int64 {
	t.Helper()
	var data metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &data); err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == name {
				for _, p := range sum.DataPoints {
					var parts []string
					for _, kv := range p.Attributes.ToSlice() {
						parts = append(parts, string(kv.Key)+"="+kv.Value.String())
					}
					out[strings.Join(parts, ",")] = p.Value
				}
			}
		}
	}
	return out
}

func metered() (*sdkmetric.ManualReader, interceptors.Option) {
	reader := sdkmetric.NewManualReader()
	return reader, interceptors.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
}

func TestClientThatObservesChangesNothingAndCountsWhatItWouldHaveDone(t *testing.T) {
	t.Parallel()
	var headers atomic.Value
	leaf := &counter{fail: always(errUnavailable)}
	n := serve(t, func(ctx context.Context) error {
		headers.Store(metadata.ValueFromIncomingContext(ctx, wire.ContextKey))
		return leaf.handle(ctx)
	})
	reader, meter := metered()
	b := fixedBudget()
	do := idempotent(n.dial(newClient(t, interceptors.WithMode(interceptors.Observe), interceptors.WithBudget(b), meter).DialOptions()...))
	_ = do(t.Context())
	if leaf.calls.Load() != 1 || balance(b) != 10 {
		t.Errorf("%d calls, balance %v; want 1 and 10", leaf.calls.Load(), balance(b))
	}
	values, _ := headers.Load().([]string)
	h, ok := wire.ParseContext(strings.Join(values, ","))
	if !ok || !h.HasSent || h.HasBudget {
		t.Errorf("sent %+v, want a time and no budget", h)
	}
	want := "grpc.method=hopbound.test.v1.TestService/Idempotent,grpc.target=passthrough:///node,hopbound.decision=retried,hopbound.mode=observe"
	if got := sums(t, reader, "hopbound.client.attempts"); got[want] != 1 {
		t.Errorf("counted %v, want one %s", got, want)
	}
}

// It has tokens of its own to judge by: those of the request are for the clients that
// retry.
func TestClientThatObservesLeavesTheRequestItsTokens(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: always(errUnavailable)}
	n := serve(t, leaf.handle)
	observing := idempotent(n.dial(newClient(t, quick(), interceptors.WithMode(interceptors.Observe)).DialOptions()...))
	retrying := idempotent(n.dial(newClient(t, quickly(10), interceptors.WithBudget(fixedBudget())).DialOptions()...))
	ctx, end := budget.NewRoot(t.Context(), fixedBudget())
	defer end(false)
	for range 5 {
		_ = observing(ctx)
	}
	observed := leaf.calls.Load()
	_ = retrying(ctx)
	if got := leaf.calls.Load() - observed; observed != 5 || got != 4 {
		t.Errorf("%d calls of the one that observes and %d of the other, want 5 and 4", observed, got)
	}
}

// A team that has gRPC's own retries keeps them while it observes.
func TestClientThatObservesLeavesGRPCsOwnRetriesOn(t *testing.T) {
	t.Parallel()
	for mode, want := range map[interceptors.Mode]int64{interceptors.Observe: 3, interceptors.Enforce: 1} {
		leaf := &counter{fail: always(errUnavailable)}
		client := newClient(t, interceptors.WithMode(mode), quickly(1))
		_ = idempotent(serve(t, leaf.handle).dial(append(client.DialOptions(), native())...))(t.Context())
		if got := leaf.calls.Load(); got != want {
			t.Errorf("%v: %d calls, want %d", mode, got, want)
		}
	}
}

func TestServerThatObservesRefusesNothingAndMarksNothing(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	leaf := &counter{fail: always(errUnavailable)}
	down := idempotent(serve(t, leaf.handle).dial(newClient(t, quick()).DialOptions()...))
	n := serve(t, func(ctx context.Context) error { return down(ctx) },
		newServer(t, interceptors.WithMode(interceptors.Observe), interceptors.WithFloor(time.Hour), meter).ServerOptions()...)
	ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=2;a=1")
	var trailer metadata.MD
	if err := idempotent(n.dial())(ctx, grpc.Trailer(&trailer)); status.Convert(err).Message() != "the leaf is down" {
		t.Errorf("got %v, want the leaf's own error", err)
	}
	if leaf.calls.Load() != 3 || len(trailer["grpc-retry-pushback-ms"]) != 0 || !strings.HasPrefix(trailer["hop-report"][0], "1;u=2;") {
		t.Errorf("%d calls, trailer %v; want 3 calls, a report of 2 used and no mark", leaf.calls.Load(), trailer)
	}
	want := "grpc.method=hopbound.test.v1.TestService/Idempotent,hopbound.mode=observe,hopbound.reason=DEADLINE_EXPIRED,hopbound.side=server"
	if got := sums(t, reader, "hopbound.refusals"); got[want] != 1 {
		t.Errorf("counted %v, want one %s", got, want)
	}
}

func TestMalformedHeaderBreaksNothingAndIsCounted(t *testing.T) {
	t.Parallel()
	for name, values := range map[string][]string{
		"nonsense":        {"hello"},
		"unknown version": {"2;d=5;s=10"},
		"too long":        {"1;x=" + strings.Repeat("x", 300)},
		"sent twice":      {"1;d=5;s=10;c=000000000000000a", "1;b=3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reader, meter := metered()
			leaf := &counter{fail: failing(1)}
			down := idempotent(serve(t, leaf.handle).dial(newClient(t, quick()).DialOptions()...))
			n := serve(t, func(ctx context.Context) error { return down(ctx) }, newServer(t, meter).ServerOptions()...)
			ctx := t.Context()
			for _, v := range values {
				ctx = metadata.AppendToOutgoingContext(ctx, wire.ContextKey, v)
			}
			if err := idempotent(n.dial())(ctx); err != nil || leaf.calls.Load() != 2 {
				t.Errorf("%v after %d calls; want a root that retries", err, leaf.calls.Load())
			}
			want := "grpc.method=hopbound.test.v1.TestService/Idempotent,hopbound.header=hop-context,hopbound.side=server"
			if got := sums(t, reader, "hopbound.malformed"); got[want] != 1 {
				t.Errorf("counted %v, want one %s", got, want)
			}
		})
	}
}

func TestMalformedReportBreaksNothingAndIsCounted(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	n := serve(t, func(ctx context.Context) error {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(wire.ReportKey, "1;u=100000"))
		return nil
	})
	b := fixedBudget()
	if err := idempotent(n.dial(newClient(t, interceptors.WithBudget(b), meter).DialOptions()...))(t.Context()); err != nil || balance(b) != 10 {
		t.Errorf("%v, balance %v; want success and 10", err, balance(b))
	}
	if got := sums(t, reader, "hopbound.malformed"); len(got) != 1 {
		t.Errorf("counted %v, want one", got)
	}
}

// What a server used below is unknown if its report on a failure cannot be read: all
// that it was lent.
func TestUnreadableReportOfAFailureCostsAllThatWasLent(t *testing.T) {
	t.Parallel()
	for report, want := range map[string]int{"1;u=nonsense": 2, "1;u=0;e=1": 0} {
		n := serve(t, func(ctx context.Context) error {
			_ = grpc.SetTrailer(ctx, metadata.Pairs(wire.ReportKey, report))
			return status.Error(codes.NotFound, "")
		})
		b := fixedBudget()
		do := idempotent(n.dial(newClient(t, interceptors.WithBudget(b)).DialOptions()...))
		ctx, end := budget.NewRoot(t.Context(), b)
		_ = do(ctx)
		root, _ := budget.FromContext(ctx)
		if got := root.Used(); got != want {
			t.Errorf("%q: %d charged, want %d", report, got, want)
		}
		end(false)
	}
}

func TestEdgeTrustsItsCallersWithNothing(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: always(errUnavailable)}
	b := fixedBudget(budget.PerRequest(1), budget.Burst(10))
	down := idempotent(serve(t, leaf.handle).dial(newClient(t, quickly(50), interceptors.WithBudget(b)).DialOptions()...))
	n := serve(t, func(ctx context.Context) error { return down(ctx) }, newServer(t, interceptors.AtEdge()).ServerOptions()...)
	// A caller that says its time is over, and that brings a thousand tokens.
	ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=1000;a=1")
	var trailer metadata.MD
	err := idempotent(n.dial())(ctx, grpc.Trailer(&trailer))
	if status.Code(err) != codes.Unavailable || leaf.calls.Load() != 2 || balance(b) != 9 {
		t.Errorf("%v after %d calls, balance %v; want UNAVAILABLE, 2 and 9", err, leaf.calls.Load(), balance(b))
	}
	if !strings.HasPrefix(trailer["hop-report"][0], "1;u=0;") {
		t.Errorf("report %v: the caller is charged for the edge's own budget", trailer["hop-report"])
	}
}

func TestPanicOfAHandlerGivesBackWhatItHeld(t *testing.T) {
	t.Parallel()
	b := fixedBudget()
	down := idempotent(serve(t, func(context.Context) error { return nil }).dial(newClient(t, interceptors.WithBudget(b)).DialOptions()...))
	recovered := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (reply any, err error) {
		defer func() {
			if recover() != nil {
				err = status.Error(codes.Internal, "panicked")
			}
		}()
		return h(ctx, req)
	})
	n := serve(t, func(ctx context.Context) error {
		_ = down(ctx)
		panic("a bug")
	}, append([]grpc.ServerOption{recovered}, newServer(t).ServerOptions()...)...)
	if err := idempotent(n.dial())(t.Context()); status.Code(err) != codes.Internal || balance(b) != 10 {
		t.Errorf("%v, balance %v; want INTERNAL and 10", err, balance(b))
	}
}
