package interceptors

import (
	"context"
	"errors"
	"runtime"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Attributes of metrics, beside those that spans have too. The first three are
// gRFC A66's.
const (
	attrGRPCMethod = attribute.Key("grpc.method")
	attrGRPCTarget = attribute.Key("grpc.target")
	attrGRPCStatus = attribute.Key("grpc.status")
	attrSide       = attribute.Key("hopbound.side")
	attrBudget     = attribute.Key("hopbound.budget")
)

// Sides of a call.
const (
	sideClient = "client"
	sideServer = "server"
)

// latencyBounds are bounds in seconds, those of gRFC A66.
func latencyBounds() metric.HistogramOption {
	return metric.WithExplicitBucketBoundaries(0, 1e-5, 5e-5, 1e-4, 3e-4, 6e-4, 8e-4, .001, .002, .003, .004, .005, .006, .008, .01,
		.013, .016, .02, .025, .03, .04, .05, .065, .08, .1, .13, .16, .2, .25, .3, .4, .5, .65, .8, 1, 2, 5, 10, 20, 50, 100)
}

// instruments makes the instruments of a meter, and keeps what is wrong with
// them.
type instruments struct {
	meter metric.Meter
	errs  []error
}

// newInstruments returns nil if there is no meter provider.
func newInstruments(s *settings) *instruments {
	if s.meters == nil {
		return nil
	}
	return &instruments{meter: s.meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))}
}

func (i *instruments) counter(name, unit, description string) metric.Int64Counter {
	c, err := i.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
	i.errs = append(i.errs, err)
	return c
}

func (i *instruments) counts(name, unit, description string, bounds ...float64) metric.Int64Histogram {
	h, err := i.meter.Int64Histogram(name, metric.WithUnit(unit), metric.WithDescription(description),
		metric.WithExplicitBucketBoundaries(bounds...))
	i.errs = append(i.errs, err)
	return h
}

func (i *instruments) seconds(name, description string, bounds metric.HistogramOption) metric.Float64Histogram {
	h, err := i.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), bounds)
	i.errs = append(i.errs, err)
	return h
}

func (i *instruments) gauge(name, unit, description string) metric.Float64ObservableGauge {
	g, err := i.meter.Float64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(description))
	i.errs = append(i.errs, err)
	return g
}

func (i *instruments) total(name, unit, description string) metric.Int64ObservableCounter {
	c, err := i.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	i.errs = append(i.errs, err)
	return c
}

// observe lets the meter call back for the instruments that it observes, as long as there is
// the owner. The callback must not hold on to the owner.
func observe[T any](i *instruments, owner *T, callback metric.Callback, observed ...metric.Observable) error {
	if err := i.err(); err != nil {
		return err
	}
	registration, err := i.meter.RegisterCallback(callback, observed...)
	if err == nil {
		runtime.AddCleanup(owner, func(r metric.Registration) { _ = r.Unregister() }, registration)
	}
	return err
}

func (i *instruments) err() error { return errors.Join(i.errs...) }

// counters count what happens at both sides.
type counters struct {
	side     string
	refusals metric.Int64Counter
	ignored  metric.Int64Counter
	twice    metric.Int64Counter
}

func newCounters(i *instruments, side string) counters {
	return counters{
		side:     side,
		refusals: i.counter("hopbound.refusals", "{call}", "Calls that were rejected, or in mode observe would have been, by reason."),
		ignored:  i.counter("hopbound.malformed", "{value}", "Values in metadata that were malformed and ignored, by key."),
		twice:    i.counter("hopbound.installed_twice", "{call}", "Calls whose interceptors are installed twice: the inner ones passed them through."),
	}
}

func (c *counters) refusal(ctx context.Context, m *method, mode Mode, reason string) {
	c.refusals.Add(ctx, 1, newLabels(attrGRPCMethod.String(m.label()), attrSide.String(c.side),
		attrReason.String(reason), attrMode.String(mode.String())).add...)
}

func (c *counters) installedTwice(ctx context.Context, m *method) {
	c.twice.Add(ctx, 1, newLabels(attrGRPCMethod.String(m.label()), attrSide.String(c.side)).add...)
}

func (c *counters) malformed(ctx context.Context, m *method, key string) {
	c.ignored.Add(ctx, 1, newLabels(attrGRPCMethod.String(m.label()), attrSide.String(c.side), attrHeader.String(key)).add...)
}
