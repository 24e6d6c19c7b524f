package shop

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Provider returns the tracer provider of a service or a customer. Spans are exported when they end, so that a process that
// is killed loses only those that had not ended.
func (c *Config) Provider(ctx context.Context, name string) (trace.TracerProvider, func(), error) {
	if c.Traces == "" {
		return noop.NewTracerProvider(), func() {}, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(c.Traces), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, nil, err
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter), sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", name))))
	return p, func() { _ = p.Shutdown(context.WithoutCancel(ctx)) }, nil
}
