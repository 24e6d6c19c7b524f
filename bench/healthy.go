package bench

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
)

type echo struct {
	testv1.UnimplementedTestServiceServer
}

func (echo) Idempotent(_ context.Context, req *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	return &testv1.IdempotentResponse{Text: req.GetText()}, nil
}

// Stack is the software that makes and serves a call.
type Stack int

// The stacks.
const (
	Bare       Stack = iota // gRPC alone
	Header                  // gRPC with one header whose value is new in each call
	SameHeader              // gRPC with one header whose value never changes
	Hopbound                // gRPC with Hopbound on client and server
	Limited                 // gRPC with Hopbound on client and server, and all its limits of streams

	Otelgrpc // gRPC with otelgrpc on client and server, which records one trace in a hundred
	Traced   // gRPC with Hopbound on client and server, which records one trace in a hundred
)

// Sampled is the share of traces that Otelgrpc and Traced record.
const Sampled = 0.01

// String returns the stack's name in tables.
func (s Stack) String() string {
	return [...]string{
		"gRPC alone", "gRPC with a header of 66 bytes that is new in each call", "gRPC with a header of 66 bytes that never changes", "gRPC with Hopbound", "gRPC with Hopbound and limits",
		"gRPC with otelgrpc", "gRPC with Hopbound and its traces",
	}[s]
}

// options returns the stack's options for the client and the server.
func (s Stack) options() ([]grpc.DialOption, []grpc.ServerOption, error) {
	switch s {
	case Header:
		return []grpc.DialOption{grpc.WithUnaryInterceptor(withHeader(1))}, nil, nil
	case SameHeader:
		return []grpc.DialOption{grpc.WithUnaryInterceptor(withHeader(0))}, nil, nil
	case Hopbound:
		return hopbound()
	case Limited:
		dial, serve, err := hopbound()
		if err != nil {
			return nil, nil, err
		}
		server, err := interceptors.NewServer(interceptors.WithMaxDeadline(time.Hour),
			interceptors.WithStreamIdleLimit(time.Minute), interceptors.WithStreamSendTimeout(time.Minute))
		if err != nil {
			return nil, nil, fmt.Errorf("server: %w", err)
		}
		return dial, append(serve[:0], server.ServerOptions()...), nil
	case Otelgrpc:
		provider, propagator := newProvider(), propagation.TraceContext{}
		options := []otelgrpc.Option{
			otelgrpc.WithTracerProvider(provider), otelgrpc.WithMeterProvider(noop.NewMeterProvider()), otelgrpc.WithPropagators(propagator),
		}
		return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(options...))},
			[]grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(options...))}, nil
	case Traced:
		return hopbound(interceptors.WithTracerProvider(newProvider()), interceptors.WithPropagators(propagation.TraceContext{}))
	default:
		return nil, nil, nil
	}
}

func hopbound(opts ...interceptors.Option) ([]grpc.DialOption, []grpc.ServerOption, error) {
	dial, serve := make([]interceptors.ClientOption, 0, len(opts)), make([]interceptors.ServerOption, 0, len(opts))
	for _, o := range opts {
		dial, serve = append(dial, o), append(serve, o)
	}
	client, err := interceptors.NewClient(dial...)
	if err != nil {
		return nil, nil, fmt.Errorf("client: %w", err)
	}
	server, err := interceptors.NewServer(serve...)
	if err != nil {
		return nil, nil, fmt.Errorf("server: %w", err)
	}
	return client.DialOptions(), server.ServerOptions(), nil
}

// newProvider returns a provider that records some traces and drops them when they have ended.
func newProvider() *sdktrace.TracerProvider {
	return sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(Sampled))),
		sdktrace.WithSpanProcessor(dropped{}))
}

// dropped is a span processor that drops spans.
type dropped struct{}

func (dropped) OnStart(context.Context, sdktrace.ReadWriteSpan) {}
func (dropped) OnEnd(sdktrace.ReadOnlySpan)                     {}
func (dropped) Shutdown(context.Context) error                  { return nil }
func (dropped) ForceFlush(context.Context) error                { return nil }

// withHeader returns an interceptor that only sends a header as long as Hopbound's, so that the table
// shows what such a header costs in gRPC itself. From call to call, the number in it grows by step.
func withHeader(step int64) grpc.UnaryClientInterceptor {
	const same = "1;d=1790000000000000;s=1790000000000000;c=0123456789abcdef;"
	var n atomic.Int64
	n.Store(1_000_000)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx = metadata.AppendToOutgoingContext(ctx, "bench-context", same+strconv.FormatInt(n.Add(step), 10))
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

// Healthy makes unary calls with a deadline over a connection in memory. All calls succeed.
type Healthy struct {
	client testv1.TestServiceClient
	close  func()
}

// NewHealthy starts a server and connects to it.
func NewHealthy(stack Stack) (*Healthy, error) {
	dial, serve, err := stack.options()
	if err != nil {
		return nil, err
	}
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(serve...)
	testv1.RegisterTestServiceServer(server, echo{})
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///bench", append(dial,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
	)...)
	if err != nil {
		server.Stop()
		return nil, fmt.Errorf("dial: %w", err)
	}
	return &Healthy{
		client: testv1.NewTestServiceClient(conn),
		close: func() {
			_ = conn.Close()
			server.Stop()
		},
	}, nil
}

// Close stops the server.
func (h *Healthy) Close() { h.close() }

// Call makes one call.
func (h *Healthy) Call() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := h.client.Idempotent(ctx, &testv1.IdempotentRequest{})
	return err
}

// Run makes b.N calls.
func (h *Healthy) Run(b *testing.B) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		if err := h.Call(); err != nil {
			b.Fatal(err)
		}
	}
}
