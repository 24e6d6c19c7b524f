// Package oteltest is tests of what Hopbound exports beside, and to, what others
// make for OpenTelemetry: otelgrpc, grpc-go's own stats/opentelemetry, and a
// receiver of OTLP. It is a module of its own for what it needs.
package oteltest
