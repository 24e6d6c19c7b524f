package interceptors

import (
	"context"
	"errors"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// counters count what happens. They are nil, and nothing is spent, if there is
// no meter provider.
type counters struct {
	attempts metric.Int64Counter
	refusals metric.Int64Counter
	ignored  metric.Int64Counter
	keyed    metric.Int64Counter
	steps    metric.Float64Histogram
}

func newCounters(s *settings) (*counters, error) {
	if s.meters == nil {
		return nil, nil //nolint:nilnil // nil counters count nothing
	}
	meter := s.meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	var (
		c    counters
		errs [5]error
	)
	c.attempts, errs[0] = meter.Int64Counter("hopbound.client.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts of outgoing calls, by what was decided when they ended."))
	c.refusals, errs[1] = meter.Int64Counter("hopbound.refusals", metric.WithUnit("{call}"),
		metric.WithDescription("Calls refused by client or server for want of time, by reason."))
	c.ignored, errs[2] = meter.Int64Counter("hopbound.malformed", metric.WithUnit("{value}"),
		metric.WithDescription("Values in metadata that were malformed and ignored, by key."))
	c.keyed, errs[3] = meter.Int64Counter("hopbound.idempotency.calls", metric.WithUnit("{call}"),
		metric.WithDescription("Incoming calls with an idempotency key, by what became of them."))
	c.steps, errs[4] = meter.Float64Histogram("hopbound.idempotency.store.duration", metric.WithUnit("s"),
		metric.WithDescription("Duration of steps of the idempotency store, by step and whether it answered."),
		metric.WithExplicitBucketBoundaries(stepBuckets()...))
	return &c, errors.Join(errs[:]...)
}

// stepBuckets are bounds in seconds, from what a store in memory takes to the
// longest wait.
func stepBuckets() []float64 {
	return []float64{1e-6, 1e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, .1, .25, .5, 1, 2.5, 5, 10}
}

func (c *counters) attempt(ctx context.Context, m *method, d decision, mode Mode) {
	if c != nil {
		c.attempts.Add(ctx, 1, metric.WithAttributes(semconv.RPCMethod(m.name),
			attrDecision.String(string(d)), attrMode.String(mode.String())))
	}
}

func (c *counters) refusal(ctx context.Context, m *method, reason string, mode Mode) {
	if c != nil {
		c.refusals.Add(ctx, 1, metric.WithAttributes(semconv.RPCMethod(m.name),
			attrReason.String(reason), attrMode.String(mode.String())))
	}
}

func (c *counters) malformed(ctx context.Context, m *method, key string) {
	if c != nil {
		c.ignored.Add(ctx, 1, metric.WithAttributes(semconv.RPCMethod(m.name), attrHeader.String(key)))
	}
}

// Steps of a store.
const (
	stepBegin    = "begin"
	stepComplete = "complete"
	stepExtend   = "extend"
	stepRelease  = "release"
	stepWait     = "wait"
)

func (c *counters) storeStep(ctx context.Context, kind, step string, took time.Duration, err error) {
	if c == nil {
		return
	}
	result := "ok"
	switch {
	case err == nil:
	case errors.Is(err, idempotency.ErrLeaseLost):
		result = keyLost
	case errors.Is(err, idempotency.ErrFull):
		result = keyFull
	case errors.Is(err, idempotency.ErrCorrupt):
		result = keyCorrupt
	case step == stepWait && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)):
		result = "ended"
	default:
		result = "error"
	}
	c.steps.Record(ctx, took.Seconds(), metric.WithAttributes(
		attrStore.String(kind), attrStep.String(step), attrResult.String(result)))
}

func (c *counters) keyedCall(ctx context.Context, m *method, became string) {
	if c != nil {
		c.keyed.Add(ctx, 1, metric.WithAttributes(semconv.RPCMethod(m.name), attrKeyOutcome.String(became)))
	}
}
