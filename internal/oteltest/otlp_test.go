package oteltest

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// receiver is a backend that takes spans by OTLP.
type receiver struct {
	ptraceotlp.UnimplementedGRPCServer
	mu    sync.Mutex
	spans []received
}

type received struct {
	service string
	span    ptrace.Span
}

func (r *receiver) Export(_ context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range req.Traces().ResourceSpans().All() {
		service, _ := rs.Resource().Attributes().Get("service.name")
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				kept := ptrace.NewSpan()
				s.CopyTo(kept)
				r.spans = append(r.spans, received{service.Str(), kept})
			}
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}

// A backend gets exactly the spans that there were, and each with its parent, from
// a chain of five services, of which each fails at random and the requests of which
// are given up at random.
func TestBackendGetsEverySpanOfAFailingChain(t *testing.T) {
	t.Parallel()
	backend := &receiver{}
	toBackend := register(t, func(s *grpc.Server) { ptraceotlp.RegisterGRPCServer(s, backend) })()
	recorder := tracetest.NewSpanRecorder()
	var providers []*sdktrace.TracerProvider
	provider := func(service string) interceptors.Option {
		exporter, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithGRPCConn(toBackend))
		if err != nil {
			t.Fatal(err)
		}
		p := sdktrace.NewTracerProvider(
			sdktrace.WithBatcher(exporter, sdktrace.WithMaxQueueSize(1<<16)), sdktrace.WithSpanProcessor(recorder),
			sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", service))))
		providers = append(providers, p)
		return interceptors.WithTracerProvider(p)
	}
	const requests = 300
	t.Run("requests", func(t *testing.T) { // whose end closes all, so that all spans have ended
		call := calls()["unary"]
		var next *grpc.ClientConn
		for _, service := range []string{"five", "four", "three", "two", "one"} {
			spans, down := provider(service), next
			dial := serve(t, func(ctx context.Context) error {
				if rand.IntN(5) == 0 {
					return status.Error(codes.Unavailable, "by chance")
				}
				if down == nil {
					return nil
				}
				return call(ctx, down)
			}, server(t, spans)...)
			next = dial(client(t, spans)...)
		}
		var wg sync.WaitGroup
		for i := range requests {
			wg.Go(func() {
				ctx := t.Context()
				if i%4 == 0 {
					short, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(50))*time.Millisecond)
					defer cancel()
					ctx = short
				}
				_ = call(ctx, next)
			})
		}
		wg.Wait()
	})
	for _, p := range providers {
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	backend.compare(t, recorder.Ended(), requests)
}

func (r *receiver) compare(t *testing.T, want []sdktrace.ReadOnlySpan, requests int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	made, roots, retried := byID(want), 0, false
	seen := map[trace.SpanID]bool{}
	for _, got := range r.spans {
		id := trace.SpanID(got.span.SpanID())
		s := made[id]
		if s == nil || seen[id] {
			t.Fatalf("%s came twice, or nobody made it", got.span.Name())
		}
		seen[id] = true
		if got.span.Name() != s.Name() || trace.SpanID(got.span.ParentSpanID()) != s.Parent().SpanID() || got.span.Attributes().Len() != len(s.Attributes()) {
			t.Errorf("%s came as another span", s.Name())
		}
		if got.span.ParentSpanID().IsEmpty() {
			roots++
		}
		if decision, ok := got.span.Attributes().Get("hopbound.decision"); ok && decision.Str() == "retried" {
			retried = true
		}
	}
	for _, got := range r.spans {
		if parent := trace.SpanID(got.span.ParentSpanID()); parent.IsValid() && !seen[parent] {
			t.Errorf("%s is an orphan", got.span.Name())
		}
	}
	if len(seen) != len(made) || roots != requests || !retried {
		t.Errorf("%d spans of %d, %d roots of %d, retries: %v", len(seen), len(made), roots, requests, retried)
	}
}
