package degrade_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/degrade"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The level of a service reaches the services below it, through services that have no controller, and never falls on its
// way. At the edge, it is ignored.
func TestLevelReachesTheServicesBelow(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		caller, first degrade.Level
		edge          bool
		want          []degrade.Level // at the three services
		header        string          // that the last one receives
	}{
		"all are normal":                 {want: []degrade.Level{0, 0, 0}},
		"the first is degraded":          {first: degrade.Minimal, want: []degrade.Level{2, 2, 2}, header: "2"},
		"the caller is":                  {caller: degrade.Emergency, first: degrade.Degraded, want: []degrade.Level{3, 3, 3}, header: "3"},
		"the caller is not trusted":      {caller: degrade.Emergency, edge: true, want: []degrade.Level{0, 0, 0}},
		"the edge is degraded by itself": {caller: degrade.Emergency, first: degrade.Degraded, edge: true, want: []degrade.Level{1, 1, 1}, header: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := make([]degrade.Level, 3)
			header := ""
			leaf := harness.Serve(t, func(ctx context.Context) error {
				got[2], header = degrade.FromContext(ctx), harness.HeaderField(ctx, "l")
				return nil
			}, harness.NewServer(t).ServerOptions()...)
			next := func(to *harness.Node, level *degrade.Level) harness.Handler {
				call := harness.Idempotent(to.Dial(harness.NewClient(t).DialOptions()...))
				return func(ctx context.Context) error {
					*level = degrade.FromContext(ctx)
					return call(ctx)
				}
			}
			middle := harness.Serve(t, next(leaf, &got[1]), harness.NewServer(t).ServerOptions()...)
			levels, err := degrade.New()
			if err != nil {
				t.Fatal(err)
			}
			levels.Override(tc.first)
			var opts []interceptors.ServerOption
			if tc.edge {
				opts = append(opts, interceptors.AtEdge())
			}
			first := harness.Serve(t, next(middle, &got[0]), append(harness.NewServer(t, opts...).ServerOptions(), levels.ServerOptions()...)...)
			if err := harness.Idempotent(first.Dial(harness.NewClient(t).DialOptions()...))(degrade.WithLevel(t.Context(), tc.caller)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, tc.want) || header != tc.header {
				t.Errorf("levels %v, and the last header has %q", got, header)
			}
		})
	}
}

// A call that is answered with DEGRADED is retried by no hop, and has had no effect under its key.
func TestDegradedCallsAreNotRetried(t *testing.T) {
	t.Parallel()
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	levels, err := degrade.New(degrade.WithMeterProvider(provider))
	if err != nil {
		t.Fatal(err)
	}
	levels.Override(degrade.Emergency)
	feature := degrade.Feature{Name: "payments", OffFrom: degrade.Emergency}
	leaf := &harness.Counter{}
	runs, takenOver := 0, false
	n := harness.Serve(t, func(ctx context.Context) error {
		runs++
		takenOver = takenOver || idempotency.TakenOver(ctx)
		if err := degrade.Require(ctx, feature); err != nil {
			return err
		}
		return leaf.Handle(ctx)
	}, append(harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory())).ServerOptions(), levels.ServerOptions()...)...)
	write := harness.Write(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
	harness.WantError(t, write(t.Context(), interceptors.UseKey("k")), codes.Unavailable, interceptors.ReasonDegraded)
	if runs != 1 {
		t.Errorf("%d runs", runs)
	}
	levels.Override(degrade.Normal)
	if err := write(t.Context(), interceptors.UseKey("k")); err != nil || takenOver || leaf.Calls.Load() != 1 {
		t.Errorf("%v; an effect is taken for possible: %v", err, takenOver)
	}
	changes := harness.Sums(t, reader, "hopbound.degrade.changes")
	if all := strings.Join(slices.Sorted(maps.Keys(changes)), " "); !strings.Contains(all, "hopbound.degrade.level=emergency") || !strings.Contains(all, "hopbound.degrade.level=normal") {
		t.Errorf("counted %v", changes)
	}
}

// A degraded request shows its level and the features that are off, and the level is a metric.
func TestLevelsAreVisible(t *testing.T) {
	t.Parallel()
	reader, recorder := metric.NewManualReader(), tracetest.NewSpanRecorder()
	levels, err := degrade.New(degrade.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))))
	if err != nil {
		t.Fatal(err)
	}
	traces := interceptors.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder)))
	n := harness.Serve(t, func(ctx context.Context) error {
		degrade.Enabled(ctx, degrade.Feature{Name: "search", OffFrom: degrade.Minimal})
		return nil
	}, append(harness.NewServer(t, traces).ServerOptions(), levels.ServerOptions()...)...)
	call := harness.Idempotent(n.Dial())
	for _, level := range []degrade.Level{degrade.Normal, degrade.Minimal} {
		levels.Override(level)
		if err := call(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var shown []string
	for _, s := range recorder.Ended() {
		for _, kv := range s.Attributes() {
			if kv.Key == "hopbound.degrade.level" {
				shown = append(shown, kv.Value.AsString())
			}
		}
		for _, e := range s.Events() {
			shown = append(shown, e.Name+" "+e.Attributes[0].Value.AsString()+" "+e.Attributes[1].Value.AsString())
		}
	}
	if want := []string{"minimal", "hopbound.degraded search minimal"}; !slices.Equal(shown, want) {
		t.Errorf("spans show %q", shown)
	}
	if all := harness.Collected(t, reader); !strings.Contains(all, "hopbound.degrade.level {level} {} 2") {
		t.Errorf("the level is no metric:\n%s", all)
	}
}
