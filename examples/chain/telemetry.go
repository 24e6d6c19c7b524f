package main

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// telemetry is the OpenTelemetry providers of one chain. Each hop exports its spans and metrics under its own
// service name: to the live page, to Prometheus, and to the backend.
type telemetry struct {
	hops []*hopTelemetry // the user, and then the services in order
}

type hopTelemetry struct {
	name    string
	traces  *sdktrace.TracerProvider
	metrics *sdkmetric.MeterProvider
	reader  *sdkmetric.ManualReader // for the page
}

// newTelemetry returns the providers of a chain. They record the given share of the traces.
func newTelemetry(ctx context.Context, s stack, depth int, share float64, spans sdktrace.SpanExporter, b *backend, scraped *prometheus.Registry) (*telemetry, error) {
	t := &telemetry{}
	for i := range depth + 1 {
		h := &hopTelemetry{name: hopName(i), reader: sdkmetric.NewManualReader()}
		service := resource.NewSchemaless(
			attribute.String("service.namespace", string(s)), attribute.String("service.name", fmt.Sprintf("%s-%s", s, h.name)))
		h.traces = b.register(sdktrace.NewTracerProvider(append(b.traces(),
			sdktrace.WithSyncer(spans), sdktrace.WithResource(service),
			sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(share))))...))
		toPrometheus, err := otelprometheus.New(otelprometheus.WithRegisterer(scraped), otelprometheus.WithoutScopeInfo(),
			otelprometheus.WithResourceAsConstantLabels(func(attribute.KeyValue) bool { return true }), otelprometheus.WithoutTargetInfo())
		if err != nil {
			return nil, fmt.Errorf("prometheus: %w", err)
		}
		sent, err := b.metrics(ctx)
		if err != nil {
			return nil, err
		}
		h.metrics = sdkmetric.NewMeterProvider(append(sent,
			sdkmetric.WithReader(h.reader), sdkmetric.WithReader(toPrometheus), sdkmetric.WithResource(service))...)
		b.closers = append(b.closers, h.metrics.Shutdown)
		t.hops = append(t.hops, h)
	}
	return t, nil
}

func hopName(i int) string {
	if i == 0 {
		return "user"
	}
	return fmt.Sprintf("hop%d", i)
}

func (t *telemetry) providers(hop int) providers {
	h := t.hops[hop]
	return providers{traces: h.traces, metrics: h.metrics}
}
