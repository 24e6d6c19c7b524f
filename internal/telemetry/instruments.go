package telemetry

import (
	"context"
	"errors"
	"runtime"

	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// latencyBounds are bounds in seconds, those of gRFC A66.
func latencyBounds() metric.HistogramOption {
	return metric.WithExplicitBucketBoundaries(0, 1e-5, 5e-5, 1e-4, 3e-4, 6e-4, 8e-4, .001, .002, .003, .004, .005, .006, .008, .01,
		.013, .016, .02, .025, .03, .04, .05, .065, .08, .1, .13, .16, .2, .25, .3, .4, .5, .65, .8, 1, 2, 5, 10, 20, 50, 100)
}

// headroomBounds are bounds in seconds for the time left until a deadline. Deadlines are mostly a few
// round numbers of seconds, so that the steps are small there: a percentile is off by a tenth at most.
func headroomBounds() metric.HistogramOption {
	return metric.WithExplicitBucketBoundaries(0, .001, .002, .005, .01, .015, .02, .03, .04, .05, .065, .08, .1, .125, .15, .175, .2, .25, .3, .35, .4, .45, .5,
		.55, .6, .65, .7, .75, .8, .85, .9, .95, 1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 45, 60, 120, 300)
}

// instruments makes the instruments of a meter, and keeps their errors.
type instruments struct {
	meter metric.Meter
	errs  []error
}

// newInstruments returns nil if there is no meter provider.
func newInstruments(s *Settings) *instruments {
	if s.Meters == nil {
		return nil
	}
	return &instruments{meter: s.Meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))}
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

// observe registers a callback for observable instruments. The registration ends when the owner is
// garbage, so the callback must not refer to the owner.
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

// counters count what happens on both sides.
type counters struct {
	side           string
	rejections     metric.Int64Counter
	ignored        metric.Int64Counter
	installedTwice metric.Int64Counter

	sets struct{ rejections, ignored, installedTwice, methods bounded }
}

func newCounters(i *instruments, side string) counters {
	return counters{
		side:           side,
		rejections:     i.counter("hopbound.refusals", "{call}", "Calls that were rejected, or in mode observe would have been, by reason."),
		ignored:        i.counter("hopbound.malformed", "{value}", "Values in metadata that were malformed and ignored, by key."),
		installedTwice: i.counter("hopbound.installed_twice", "{call}", "Calls whose interceptors are installed twice: the inner ones passed them through."),
	}
}

func (c *counters) rejected(ctx context.Context, m *Method, observe bool, reason string) {
	c.rejections.Add(ctx, 1, c.sets.rejections.by(true, attrGRPCMethod, m.Label(), attrSide.String(c.side),
		attrReason.String(reason), attrMode.String(modeName(observe))).add...)
}

func (c *counters) countTwice(ctx context.Context, m *Method) {
	c.installedTwice.Add(ctx, 1, c.sets.installedTwice.by(true, attrGRPCMethod, m.Label(), attrSide.String(c.side)).add...)
}

func (c *counters) malformed(ctx context.Context, m *Method, key string) {
	c.ignored.Add(ctx, 1, c.sets.ignored.by(true, attrGRPCMethod, m.Label(), attrSide.String(c.side), attrHeader.String(key)).add...)
}
