package harness

import (
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
)

// Leaks counts what calls hold, to check that they give it back.
type Leaks struct {
	spans    SpanCounter
	finished atomic.Int64
	budget   *budget.Budget
}

// NewLeaks returns counts of 0, with a budget that earns nothing.
func NewLeaks() *Leaks {
	return &Leaks{budget: budget.New(budget.Ratio(0), budget.MinPerSecond(0))}
}

// Client returns dial options whose spans and tokens are counted.
func (l *Leaks) Client(t testing.TB, opts ...interceptors.ClientOption) []grpc.DialOption {
	t.Helper()
	tracer := interceptors.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(&l.spans)))
	return NewClient(t, append(opts, tracer, interceptors.WithBudget(l.budget))...).DialOptions()
}

// OnFinish returns a call option that counts when the call has finished.
func (l *Leaks) OnFinish() grpc.CallOption {
	return grpc.OnFinish(func(error) { l.finished.Add(1) })
}

// CheckNoneLeft checks that so many calls have finished, and all their spans have ended.
func (l *Leaks) CheckNoneLeft(t *testing.T, calls int64) {
	t.Helper()
	if started, ended := l.spans.Started.Load(), l.spans.Ended.Load(); l.finished.Load() != calls || started != ended {
		t.Errorf("%d calls have finished of %d, and %d spans of %d", l.finished.Load(), calls, ended, started)
	}
}
