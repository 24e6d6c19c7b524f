package oteltest

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats/opentelemetry"
	"google.golang.org/grpc/status"

	experimental "google.golang.org/grpc/experimental/opentelemetry"
)

// instrumentation is what else makes spans on both sides.
type instrumentation struct {
	dial  grpc.DialOption
	serve grpc.ServerOption
}

func instrumentations(provider trace.TracerProvider) map[string]instrumentation {
	propagator := propagation.TraceContext{}
	traces := opentelemetry.Options{TraceOptions: experimental.TraceOptions{TracerProvider: provider, TextMapPropagator: propagator}}
	options := []otelgrpc.Option{otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(propagator)}
	return map[string]instrumentation{
		"otelgrpc": {
			grpc.WithStatsHandler(otelgrpc.NewClientHandler(options...)), grpc.StatsHandler(otelgrpc.NewServerHandler(options...)),
		},
		"otelgrpc whose propagator sends nothing": {
			grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(nothing{}))),
			grpc.EmptyServerOption{},
		},
		"stats/opentelemetry":                          {opentelemetry.DialOption(traces), opentelemetry.ServerOption(traces)},
		"stats/opentelemetry, and otelgrpc's server":   {opentelemetry.DialOption(traces), grpc.StatsHandler(otelgrpc.NewServerHandler(options...))},
		"otelgrpc, and the server stats/opentelemetry": {grpc.WithStatsHandler(otelgrpc.NewClientHandler(options...)), opentelemetry.ServerOption(traces)},
		"stats/opentelemetry on the client alone":      {opentelemetry.DialOption(traces), grpc.EmptyServerOption{}},
		"otelgrpc on the client alone":                 {grpc.WithStatsHandler(otelgrpc.NewClientHandler(options...)), grpc.EmptyServerOption{}},
		"otelgrpc on the server alone":                 {grpc.EmptyDialOption{}, grpc.StatsHandler(otelgrpc.NewServerHandler(options...))},
		"stats/opentelemetry on the server alone":      {grpc.EmptyDialOption{}, opentelemetry.ServerOption(traces)},
		"nothing": {grpc.EmptyDialOption{}, grpc.EmptyServerOption{}},
		"stats/opentelemetry that counts but no traces": {opentelemetry.DialOption(opentelemetry.Options{}), opentelemetry.ServerOption(opentelemetry.Options{})},
	}
}

// nothing is a propagator that sends nothing.
type nothing struct{}

func (nothing) Inject(context.Context, propagation.TextMapCarrier) {}
func (nothing) Extract(ctx context.Context, _ propagation.TextMapCarrier) context.Context {
	return ctx
}
func (nothing) Fields() []string { return nil }

// Beside what else makes spans, between a server's span and that of the caller's
// handler there is one CLIENT span, and one attempt, and no span has lost its
// parent: with Hopbound before and after the other.
func TestEachAttemptHasOneClientSpanAndNoParentIsMissing(t *testing.T) {
	t.Parallel()
	for name := range instrumentations(sdktrace.NewTracerProvider()) {
		for kind, call := range calls() {
			for _, first := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, %s, first %v", name, kind, first), func(t *testing.T) {
					t.Parallel()
					recorder := tracetest.NewSpanRecorder()
					provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
					throughTwoHops(t, instrumentations(provider)[name], interceptors.WithTracerProvider(provider), call, first)
					checkSpans(t, recorder, strings.Contains(name, "sends nothing"), 3)
				})
			}
		}
	}
}

// throughTwoHops calls a hop that calls a leaf which fails once.
func throughTwoHops(t *testing.T, other instrumentation, spans interceptors.Option, call func(context.Context, *grpc.ClientConn) error, first bool) {
	t.Helper()
	t.Run("", func(t *testing.T) { // whose end closes all, so that all spans have ended
		dial := func() []grpc.DialOption {
			if first {
				return append(client(t, spans), other.dial)
			}
			return append([]grpc.DialOption{other.dial}, client(t, spans)...)
		}
		opts := append([]grpc.ServerOption{other.serve}, server(t, spans)...)
		var failed atomic.Bool
		down := serve(t, func(context.Context) error {
			if !failed.Swap(true) {
				return status.Error(codes.Unavailable, "once")
			}
			return nil
		}, opts...)(dial()...)
		up := serve(t, func(ctx context.Context) error { return call(ctx, down) }, opts...)(dial()...)
		if err := call(t.Context(), up); err != nil {
			t.Fatal(err)
		}
	})
}

// So it is with attempts at the same time.
func TestEachHedgeHasOneClientSpan(t *testing.T) {
	t.Parallel()
	for name := range instrumentations(sdktrace.NewTracerProvider()) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			recorder := tracetest.NewSpanRecorder()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
			other, spans := instrumentations(provider)[name], interceptors.WithTracerProvider(provider)
			t.Run("", func(t *testing.T) { // as above
				both := make(chan struct{}, 2)
				cc := serve(t, func(ctx context.Context) error {
					if both <- struct{}{}; len(both) < 2 { // the first waits for the second
						<-ctx.Done()
					}
					return ctx.Err()
				}, append([]grpc.ServerOption{other.serve}, server(t, spans)...)...)(append(client(t, spans), other.dial)...)
				_, err := testv1.NewTestServiceClient(cc).Idempotent(t.Context(), &testv1.IdempotentRequest{},
					interceptors.UsePolicy(interceptors.Policy{Hedge: &interceptors.HedgePolicy{MaxAttempts: 2}}))
				if err != nil {
					t.Fatal(err)
				}
			})
			checkSpans(t, recorder, strings.Contains(name, "sends nothing"), 2)
		})
	}
}

// checkSpans checks that all spans have ended and have their parents, and that there
// are so many of servers, each below one attempt and one CLIENT span.
func checkSpans(t *testing.T, recorder *tracetest.SpanRecorder, beside bool, want int) {
	t.Helper()
	if started, ended := len(recorder.Started()), len(recorder.Ended()); started != ended {
		t.Fatalf("%d spans started and %d ended", started, ended)
	}
	spans := byID(recorder.Ended())
	servers, roots := 0, 0
	for _, s := range spans {
		if !s.Parent().SpanID().IsValid() {
			roots++
		} else if spans[s.Parent().SpanID()] == nil {
			t.Errorf("the parent of %s is missing", s.Name())
		}
		if s.SpanKind() != trace.SpanKindServer {
			continue
		}
		servers++
		if clients, attempts, path := above(spans, s, beside); clients != 1 || attempts != 1 {
			t.Errorf("%d CLIENT spans and %d attempts above a server's: %s", clients, attempts, path)
		}
	}
	if servers != want || roots != 1 {
		t.Errorf("%d server spans and %d roots, want %d and 1", servers, roots, want)
	}
}

// above counts the CLIENT spans and the attempts between a server's span and the
// next server's above it. Where the other's trace context is not sent, its CLIENT
// span is beside the way, below the same attempt, and counts too.
func above(spans map[trace.SpanID]sdktrace.ReadOnlySpan, s sdktrace.ReadOnlySpan, beside bool) (clients, attempts int, path string) {
	var names []string
	var attempt sdktrace.ReadOnlySpan
	for p := spans[s.Parent().SpanID()]; p != nil && p.SpanKind() != trace.SpanKindServer; p = spans[p.Parent().SpanID()] {
		names = append(names, fmt.Sprintf("%s (%v)", p.Name(), p.SpanKind()))
		if p.SpanKind() == trace.SpanKindClient {
			clients++
		}
		for _, kv := range p.Attributes() {
			if kv.Key == "hopbound.attempt" {
				attempts++
				attempt = p
			}
		}
	}
	if clients == 0 && attempt != nil && beside {
		for _, p := range spans {
			if p.Parent().SpanID() == attempt.SpanContext().SpanID() && p.SpanKind() == trace.SpanKindClient {
				clients++
			}
		}
	}
	return clients, attempts, strings.Join(names, " < ")
}
