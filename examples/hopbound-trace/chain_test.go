package main

import (
	"bytes"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/stdout/stdouttrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// checker is a service whose answer depends on the one behind it or, without one, on the number of the call.
type checker struct {
	healthv1.UnimplementedHealthServer
	next  healthv1.HealthClient
	fails int64 // number of the first calls that fail
	calls atomic.Int64
}

func (c *checker) Check(ctx context.Context, req *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if c.next != nil {
		return c.next.Check(ctx, req)
	}
	if c.calls.Add(1) <= c.fails {
		return nil, status.Error(codes.Unavailable, "the disk\x1b is full")
	}
	return &healthv1.HealthCheckResponse{}, nil
}

// stdoutTrace sends one call of a user through the services "front" and "back", whose first calls fail. It returns
// what the stdouttrace exporter writes.
func stdoutTrace(t *testing.T, fails int64, withOtelgrpc bool, opts ...stdouttrace.Option) string {
	t.Helper()
	var mu sync.Mutex
	var file bytes.Buffer
	exporter, err := stdouttrace.New(append(opts, stdouttrace.WithWriter(lockedWriter{&mu, &file}))...)
	if err != nil {
		t.Fatal(err)
	}
	provider := func(name string) *sdktrace.TracerProvider {
		return sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter),
			sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", name))))
	}
	var stop []func()
	serve := func(name string, service healthv1.HealthServer) string {
		address, stopServer := serveTraced(t, provider(name), withOtelgrpc, service)
		stop = append(stop, stopServer)
		return address
	}
	back := serve("back", &checker{fails: fails})
	front := serve("front", &checker{next: dialTraced(t, provider("front"), withOtelgrpc, back)})
	_, _ = dialTraced(t, provider("user"), withOtelgrpc, front).Check(t.Context(), &healthv1.HealthCheckRequest{})
	for _, stopServer := range stop {
		stopServer() // so that the spans of the servers have ended
	}
	mu.Lock()
	defer mu.Unlock()
	return file.String()
}

type lockedWriter struct {
	mu  *sync.Mutex
	out *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

func serveTraced(t *testing.T, traces *sdktrace.TracerProvider, withOtelgrpc bool, service healthv1.HealthServer) (address string, stop func()) {
	t.Helper()
	server, err := interceptors.NewServer(interceptors.WithTracerProvider(traces))
	if err != nil {
		t.Fatal(err)
	}
	opts := server.ServerOptions()
	if withOtelgrpc {
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler(otelgrpc.WithTracerProvider(traces), otelgrpc.WithPropagators(propagation.TraceContext{}))))
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(opts...)
	healthv1.RegisterHealthServer(s, service)
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	return listener.Addr().String(), s.GracefulStop
}

func dialTraced(t *testing.T, traces *sdktrace.TracerProvider, withOtelgrpc bool, address string) healthv1.HealthClient {
	t.Helper()
	client, err := interceptors.NewClient(interceptors.WithTracerProvider(traces), interceptors.WithPolicy(interceptors.MethodPolicies{
		"": {Retry: &interceptors.RetryPolicy{MaxAttempts: 3}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	opts := append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if withOtelgrpc {
		opts = append(opts, grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(traces), otelgrpc.WithPropagators(propagation.TraceContext{}))))
	}
	conn, err := grpc.NewClient(address, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return healthv1.NewHealthClient(conn)
}
