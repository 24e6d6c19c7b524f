package control

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// measure makes the instruments; [WithMeterProvider] describes them. The gauges are observed when they are exported, so
// that no attribute set of an earlier version stays.
func (f *File) measure() error {
	if f.settings.meters == nil {
		return nil
	}
	meter := f.settings.meters.Meter("github.com/hopbound/hopbound/interceptors/control")
	var errs [5]error
	var version, loaded, current metric.Int64ObservableGauge
	version, errs[0] = meter.Int64ObservableGauge("hopbound.control.version",
		metric.WithDescription("Is 1, with the version of the policies in use as an attribute."))
	loaded, errs[1] = meter.Int64ObservableGauge("hopbound.control.loaded", metric.WithUnit("s"),
		metric.WithDescription("Unix time at which the policies in use were loaded."))
	current, errs[2] = meter.Int64ObservableGauge("hopbound.control.current",
		metric.WithDescription("Is 1 if the policies in use are those of the file, and 0 if the file is invalid or cannot be read."))
	f.loads, errs[3] = meter.Int64Counter("hopbound.control.loads", metric.WithUnit("{load}"),
		metric.WithDescription("Reads of the file of policies that found a change, by result."))
	file := metric.WithAttributes(f.file())
	registration, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := f.state.Load()
		if s == nil { // the file is not loaded yet
			return nil
		}
		o.ObserveInt64(version, 1, file, metric.WithAttributes(attribute.String("hopbound.control.version", s.config.version)))
		o.ObserveInt64(loaded, s.loaded.Unix(), file)
		var isCurrent int64
		if s.err == nil {
			isCurrent = 1
		}
		o.ObserveInt64(current, isCurrent, file)
		return nil
	}, version, loaded, current)
	if errs[4] = err; err == nil {
		f.close = registration.Unregister
	}
	return errors.Join(errs[:]...)
}

func (f *File) file() attribute.KeyValue {
	return attribute.String("hopbound.control.file", f.source.name)
}

func (f *File) count(ctx context.Context, result string) {
	if f.loads != nil {
		f.loads.Add(ctx, 1, metric.WithAttributes(f.file(), attribute.String("hopbound.control.result", result)))
	}
}
