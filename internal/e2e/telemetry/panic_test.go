package telemetry_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// panicking panics when the span of an attempt is to start, while it is told to.
type panicking struct{ on *atomic.Bool }

func (p panicking) OnStart(_ context.Context, s sdktrace.ReadWriteSpan) {
	if p.on.Load() && s.Name() == "hopbound.test.v1.TestService/Idempotent" {
		panic("the processor's own words")
	}
}
func (panicking) OnEnd(sdktrace.ReadOnlySpan)      {}
func (panicking) Shutdown(context.Context) error   { return nil }
func (panicking) ForceFlush(context.Context) error { return nil }

// A panic of the application's tracing reaches the application as it is.
func TestPanicOfATracerIsPassedOn(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]interceptors.ClientOption{
		"own spans": {interceptors.WithAttemptSpans(trace.SpanKindClient)}, "spans that start later": {}, "folded": {interceptors.WithFoldedAttempts()},
	} {
		var on atomic.Bool
		provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(panicking{&on}))
		n := harness.Serve(t, func(context.Context) error { return nil })
		client := harness.NewClient(t, append(opts, interceptors.WithTracerProvider(provider))...)
		do := harness.Idempotent(n.Dial(client.DialOptions()...))
		if err := do(t.Context()); err != nil { // whose attempt shows the connection's stats handlers
			t.Fatal(err)
		}
		on.Store(true)
		func() {
			defer func() {
				if got := recover(); got != "the processor's own words" {
					t.Errorf("%s: recovered %v", name, got)
				}
			}()
			_ = do(t.Context())
		}()
	}
}
