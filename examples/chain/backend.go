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

// backend is the OTLP backend that receives spans and metrics, if there is one.
type backend struct {
	address string // empty if there is no backend
	spans   *otlptrace.Exporter
	closers []func(context.Context) error
}

// newBackend returns the backend at address, which is host:port. If address is empty, nothing is sent.
// The connection has no TLS, and is opened when there is something to send.
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

// traces returns the options with which a tracer provider sends its spans. All providers share one
// connection.
func (b *backend) traces() []sdktrace.TracerProviderOption {
	if b.spans == nil {
		return nil
	}
	return []sdktrace.TracerProviderOption{sdktrace.WithBatcher(sharedExporter{b.spans}, sdktrace.WithBatchTimeout(time.Second))}
}

// sharedExporter ignores the shutdown of one provider, because other providers still use the exporter.
type sharedExporter struct{ sdktrace.SpanExporter }

func (sharedExporter) Shutdown(context.Context) error { return nil }

// metrics returns the options with which a meter provider sends its metrics.
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

// register makes shutdown shut down a tracer provider too.
func (b *backend) register(p *sdktrace.TracerProvider) *sdktrace.TracerProvider {
	b.closers = append(b.closers, p.Shutdown)
	return p
}

// shutdown sends the remaining spans and metrics. It takes at most a second.
func (b *backend) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	errs := make(chan error, len(b.closers)+1)
	var wg sync.WaitGroup
	for _, shut := range b.closers {
		wg.Go(func() { errs <- shut(ctx) })
	}
	wg.Wait()
	if b.spans != nil { // last, because the providers use it
		errs <- b.spans.Shutdown(ctx)
	}
	close(errs)
	for err := range errs {
		if err != nil { // one is enough, because all have the same reason
			return fmt.Errorf("-otlp %s: the remaining spans and metrics could not be sent: %w", b.address, err)
		}
	}
	return nil
}
