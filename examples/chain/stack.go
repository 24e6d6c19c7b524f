package main

import (
	"fmt"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
)

// builder returns the gRPC options of the services of a chain.
type builder struct {
	stack     stack
	attempts  int
	providers func(hop int) providers // nil for no traces and no metrics
}

// providers are the OpenTelemetry providers of one hop. Hop 0 is the user, and hop 1 the first service. Either
// provider may be nil.
type providers struct {
	traces  trace.TracerProvider
	metrics metric.MeterProvider
}

func (b builder) of(hop int) providers {
	if b.providers == nil {
		return providers{}
	}
	return b.providers(hop)
}

// serverOptions and dialOptions contain all the code that Hopbound needs.
func (b builder) serverOptions(hop int, s idempotency.Store) ([]grpc.ServerOption, error) {
	p := b.of(hop)
	if b.stack == native {
		if b.providers == nil {
			return nil, nil
		}
		return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(p.otelgrpc()...))}, nil
	}
	server, err := interceptors.NewServer(
		interceptors.WithTracerProvider(p.traces), interceptors.WithMeterProvider(p.metrics),
		interceptors.WithIdempotency(s),
	)
	if err != nil {
		return nil, err
	}
	opts := server.ServerOptions()
	if b.providers != nil { // otelgrpc only measures here, so that both stacks have its metrics
		p.traces = noop.NewTracerProvider()
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler(p.otelgrpc()...)))
	}
	return opts, nil
}

func (b builder) dialOptions(hop int) ([]grpc.DialOption, error) {
	p := b.of(hop)
	if b.stack == native {
		opts := []grpc.DialOption{grpc.WithDefaultServiceConfig(serviceConfig(b.attempts))}
		if b.providers != nil {
			opts = append(opts, grpc.WithStatsHandler(otelgrpc.NewClientHandler(p.otelgrpc()...)))
		}
		return opts, nil
	}
	client, err := interceptors.NewClient(
		interceptors.WithTracerProvider(p.traces), interceptors.WithMeterProvider(p.metrics),
		interceptors.WithPolicy(interceptors.MethodPolicies{
			"": {Retry: &interceptors.RetryPolicy{
				MaxAttempts: b.attempts,
				Backoff:     interceptors.Backoff{Base: backoff, Max: backoff},
			}},
			chainv1.HopService_Order_FullMethodName: b.orders(hop),
		}))
	if err != nil {
		return nil, err
	}
	return append(client.DialOptions(), grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`)), nil
}

// orders returns the policy for orders. Users hedge an order that takes long; the other hops retry.
func (b builder) orders(hop int) interceptors.Policy {
	if hop > 0 || b.attempts == 1 {
		return interceptors.Policy{Retry: &interceptors.RetryPolicy{MaxAttempts: b.attempts}}
	}
	return interceptors.Policy{Hedge: &interceptors.HedgePolicy{MaxAttempts: 2, Delay: stall / 2}}
}

func (p providers) otelgrpc() []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(p.traces), otelgrpc.WithMeterProvider(p.metrics), otelgrpc.WithPropagators(propagation.TraceContext{}),
	}
}

// serviceConfig returns a service config with grpc-go's own retries. grpc-go allows no retry policy with one
// attempt.
func serviceConfig(attempts int) string {
	if attempts == 1 {
		return `{"loadBalancingConfig": [{"round_robin": {}}]}`
	}
	return fmt.Sprintf(`{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "retryPolicy": {
		"maxAttempts": %d, "initialBackoff": "%vs", "maxBackoff": "%vs", "backoffMultiplier": 1,
		"retryableStatusCodes": ["UNAVAILABLE"]}}]}`, attempts, backoff.Seconds(), backoff.Seconds())
}
