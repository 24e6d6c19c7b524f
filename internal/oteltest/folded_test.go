package oteltest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats/opentelemetry"
	"google.golang.org/grpc/status"
)

// failTwice returns a handler that fails its first two calls.
func failTwice() func(context.Context) error {
	calls := 0
	return func(context.Context) error {
		if calls++; calls <= 2 {
			return status.Error(codes.Unavailable, "not yet")
		}
		return nil
	}
}

// With folded attempts, a call with two retries beside otelgrpc has seven spans: the call's, three CLIENT
// spans that have the attempts' attributes, and three SERVER spans, each below its CLIENT span. The
// call's events say what was decided.
func TestFoldedAttemptsHaveOneSpanEach(t *testing.T) {
	t.Parallel()
	for kind, call := range calls() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			recorder := tracetest.NewSpanRecorder()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
			spans := interceptors.WithTracerProvider(provider)
			other := instrumentations(provider)["otelgrpc"]
			t.Run("", func(t *testing.T) { // whose end closes all, so that all spans have ended
				dial := serve(t, failTwice(), append([]grpc.ServerOption{other.serve}, server(t, spans)...)...)
				if err := call(t.Context(), dial(append(client(t, spans, interceptors.WithFoldedAttempts()), other.dial)...)); err != nil {
					t.Fatal(err)
				}
			})
			ended := recorder.Ended()
			var kinds, events []string
			for _, s := range ended {
				attempt := ""
				for _, kv := range s.Attributes() {
					if kv.Key == "hopbound.attempt" {
						attempt = " " + kv.Value.String()
					}
				}
				kinds = append(kinds, s.SpanKind().String()+attempt)
				for _, e := range s.Events() {
					if e.Name == "hopbound.attempt" {
						events = append(events, fmt.Sprint(valueOf(e, "hopbound.attempt"), " ", valueOf(e, "hopbound.decision")))
					}
				}
			}
			slices.Sort(kinds)
			if got, want := strings.Join(kinds, ", "), "client 1, client 2, client 3, internal, server 1, server 2, server 3"; got != want {
				t.Errorf("spans: %s, want %s", got, want)
			}
			if got, want := strings.Join(events, ", "), "1 retried, 2 retried, 3 done"; got != want {
				t.Errorf("events: %s, want %s", got, want)
			}
			checkSpans(t, recorder, false, 3)
		})
	}
}

func valueOf(e sdktrace.Event, key string) string {
	for _, kv := range e.Attributes {
		if string(kv.Key) == key {
			return kv.Value.String()
		}
	}
	return ""
}

// Beside stats/opentelemetry, which exports the metrics of gRFC A66, Hopbound exports only its own.
// Beside other stats handlers and alone, it exports them as well.
func TestMetricsOfA66AreExportedOnce(t *testing.T) {
	t.Parallel()
	for name, grpcs := range map[string]bool{"stats/opentelemetry": true, "nothing": false} {
		for kind, call := range calls() {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				reader := sdkmetric.NewManualReader()
				provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
				metrics := interceptors.WithMeterProvider(provider)
				other := instrumentation{grpc.EmptyDialOption{}, grpc.EmptyServerOption{}}
				if grpcs {
					options := opentelemetry.Options{MetricsOptions: opentelemetry.MetricsOptions{MeterProvider: provider}}
					other = instrumentation{opentelemetry.DialOption(options), opentelemetry.ServerOption(options)}
				}
				t.Run("", func(t *testing.T) {
					cc := serve(t, failTwice(), append([]grpc.ServerOption{other.serve}, server(t, metrics)...)...)(append(client(t, metrics), other.dial)...)
					for range 2 {
						if err := call(t.Context(), cc); err != nil {
							t.Fatal(err)
						}
					}
				})
				scopes := exportersOf(t, reader)
				for _, metric := range []string{"grpc.client.attempt.started", "grpc.client.attempt.duration", "grpc.client.call.duration", "grpc.server.call.duration"} {
					if len(scopes[metric]) != 1 || strings.Contains(scopes[metric][0], "hopbound") == grpcs {
						t.Errorf("%s is exported by %v", metric, scopes[metric])
					}
				}
			})
		}
	}
}

// exportersOf returns the names of the scopes that export each metric.
func exportersOf(t *testing.T, reader *sdkmetric.ManualReader) map[string][]string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	scopes := map[string][]string{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			scopes[m.Name] = append(scopes[m.Name], scope.Scope.Name)
		}
	}
	return scopes
}

// With otelgrpc's defaults and no global propagator, each hop would be a trace of its own; a warning
// says what to set. With a propagator, or at an edge, there is none.
func TestSplitTraceIsLogged(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		propagator propagation.TextMapPropagator
		opts       []interceptors.ServerOption
		want       int
	}{
		"no propagator":            {nothing{}, nil, 1},
		"no propagator at an edge": {nothing{}, []interceptors.ServerOption{interceptors.AtEdge()}, 0},
		"the propagator of W3C":    {propagation.TraceContext{}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			provider := sdktrace.NewTracerProvider()
			spans := interceptors.WithTracerProvider(provider)
			var book bytes.Buffer
			logger := interceptors.WithLogger(slog.New(slog.NewTextHandler(&book, nil)))
			handler := grpc.StatsHandler(otelgrpc.NewServerHandler(otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(tc.propagator)))
			cc := serve(t, func(context.Context) error { return nil }, append([]grpc.ServerOption{handler}, server(t, append(tc.opts, spans, logger)...)...)...)(client(t, spans)...)
			for range 2 {
				if err := calls()["unary"](t.Context(), cc); err != nil {
					t.Fatal(err)
				}
			}
			if got := strings.Count(book.String(), "does not continue the caller's trace"); got != tc.want {
				t.Errorf("%d warnings, want %d:\n%s", got, tc.want, book.String())
			}
		})
	}
}
