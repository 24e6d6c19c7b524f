package breaker_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A change of the state is an event of the attempt's span and counts in metrics.
func TestChangesAreInTracesAndMetrics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorder, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
		client, err := interceptors.NewClient(interceptors.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))),
			interceptors.WithAttemptSpans(trace.SpanKindClient))
		if err != nil {
			t.Fatal(err)
		}
		down := true
		l := &companiontest.Server{Handle: func(context.Context) error {
			if down {
				return status.Error(codes.Unavailable, "down")
			}
			return nil
		}}
		b := newBreaker(t, breaker.ConsecutiveFailures(1), breaker.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
		c := companiontest.Connect(t, l, nil, append(client.DialOptions(), b.DialOptions()...)...)
		_ = companiontest.Call(t.Context(), c, false)
		if got := sums(t, reader, "hopbound.breaker.open"); !slices.Equal(got, []string{"1"}) {
			t.Errorf("open breakers: %q", got)
		}
		time.Sleep(6 * time.Second)
		down = false
		_ = companiontest.Call(t.Context(), c, false)
		if got := sums(t, reader, "hopbound.breaker.open"); !slices.Equal(got, []string{"0"}) {
			t.Errorf("open breakers: %q", got)
		}
		if got := sums(t, reader, "hopbound.breaker.changes"); !slices.Equal(got, []string{"closed 1", "half-open 1", "open 1"}) {
			t.Errorf("changes: %q", got)
		}
		var events []string
		for _, s := range recorder.Ended() {
			for _, e := range s.Events() {
				if e.Name == "hopbound.breaker" {
					events = append(events, e.Attributes[0].Value.AsString())
				}
			}
		}
		if !slices.Equal(events, []string{"open", "closed"}) {
			t.Errorf("events: %q", events)
		}
	})
}

// A breaker that is forgotten, because there are too many, is not counted as open any more.
func TestForgottenBreakerIsNotOpen(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	b := newBreaker(t, breaker.ConsecutiveFailures(1), breaker.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	attempt := func(method string, failure error) {
		_ = b.UnaryInterceptor()(t.Context(), method, nil, nil, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return failure })
	}
	attempt("/s/down", status.Error(codes.Unavailable, "down"))
	for i := range 4096 {
		attempt(fmt.Sprintf("/s/m%d", i), nil)
	}
	if got := sums(t, reader, "hopbound.breaker.open"); !slices.Equal(got, []string{"0"}) || b.State("", "/s/down") != breaker.Closed {
		t.Errorf("open breakers: %q, and the first is %s", got, b.State("", "/s/down"))
	}
}

// sums returns the values of a counter, each after the state if there is one.
func sums(t *testing.T, reader *sdkmetric.ManualReader, name string) (values []string) {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if !ok || m.Name != name {
				continue
			}
			for _, p := range sum.DataPoints {
				text := strconv.FormatInt(p.Value, 10)
				if state, ok := p.Attributes.Value("hopbound.breaker.state"); ok {
					text = state.AsString() + " " + text
				}
				values = append(values, text)
			}
		}
	}
	slices.Sort(values)
	return values
}
