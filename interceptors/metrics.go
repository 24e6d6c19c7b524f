package interceptors

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// counters count what happens. They are nil, and nothing is spent, if there is
// no meter provider.
type counters struct {
	attempts metric.Int64Counter
	refusals metric.Int64Counter
	ignored  metric.Int64Counter
}

func newCounters(s *settings) (*counters, error) {
	if s.meters == nil {
		return nil, nil //nolint:nilnil // nil counters count nothing
	}
	meter := s.meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	var (
		c    counters
		errs [3]error
	)
	c.attempts, errs[0] = meter.Int64Counter("hopbound.client.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts of outgoing calls, by what was decided when they ended."))
	c.refusals, errs[1] = meter.Int64Counter("hopbound.refusals", metric.WithUnit("{call}"),
		metric.WithDescription("Calls refused by client or server for want of time, by reason."))
	c.ignored, errs[2] = meter.Int64Counter("hopbound.malformed", metric.WithUnit("{value}"),
		metric.WithDescription("Values in metadata that were malformed and ignored, by key."))
	return &c, errors.Join(errs[:]...)
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
