// Package oteltest tests Hopbound's telemetry together with that of otelgrpc and
// grpc-go's stats/opentelemetry, and its export to a receiver of OTLP. It is a
// module of its own because of its dependencies.
package oteltest
