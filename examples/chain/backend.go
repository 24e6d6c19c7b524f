package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// backend is where spans and metrics are sent by OTLP, if to anywhere.
type backend struct {
	address string // empty if they are not sent
	spans   *otlptrace.Exporter
	closers []func(context.Context) error
}

// newBackend returns a backend at host:port, or none if that is empty. It is
// connected to when there is something to send, without TLS.
func newBackend(ctx context.Context, address string) (*backend, error) {
	b := &backend{address: address}
	if address == "" {
		return b, nil
	}
	var err error
	b.spans, err = otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(address), otlptracegrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("-otlp: %w", err)
	}
	return b, nil
}

// traces returns what makes a tracer provider send its spans. All share one
// connection.
func (b *backend) traces() []sdktrace.TracerProviderOption {
	if b.spans == nil {
		return nil
	}
	return []sdktrace.TracerProviderOption{sdktrace.WithBatcher(shared{b.spans}, sdktrace.WithBatchTimeout(time.Second))}
}

// shared is an exporter that others use too, and that is shut down after them.
type shared struct{ sdktrace.SpanExporter }

func (shared) Shutdown(context.Context) error { return nil }

// metrics returns what makes a meter provider send its metrics.
func (b *backend) metrics(ctx context.Context) ([]sdkmetric.Option, error) {
	if b.address == "" {
		return nil, nil
	}
	exporter, err := otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpoint(b.address), otlpmetricgrpc.WithInsecure())
	if err != nil {
		return nil, fmt.Errorf("-otlp: %w", err)
	}
	return []sdkmetric.Option{sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter, sdkmetric.WithInterval(10*time.Second)))}, nil
}

// keep shuts a tracer provider down with the backend.
func (b *backend) keep(p *sdktrace.TracerProvider) *sdktrace.TracerProvider {
	b.closers = append(b.closers, p.Shutdown)
	return p
}

// shutdown sends what there still is, for a second at the most.
func (b *backend) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	errs := make(chan error, len(b.closers)+1)
	var wg sync.WaitGroup
	for _, shut := range b.closers {
		wg.Go(func() { errs <- shut(ctx) })
	}
	wg.Wait()
	if b.spans != nil { // which the others have used
		errs <- b.spans.Shutdown(ctx)
	}
	close(errs)
	for err := range errs {
		if err != nil { // one is enough: they have the same reason
			return fmt.Errorf("-otlp %s: what was left could not be sent: %w", b.address, err)
		}
	}
	return nil
}
