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

// Stack is what a call is made with.
type Stack int

// The stacks.
const (
	Bare     Stack = iota // gRPC alone
	Header                // gRPC with one header whose value is new in each call
	Hopbound              // gRPC with Hopbound on both ends
)

// String returns the stack's name in tables.
func (s Stack) String() string {
	return [...]string{"gRPC alone", "gRPC with a header of 66 bytes, new in each call", "gRPC with Hopbound"}[s]
}

// options returns what to dial and to serve with.
func (s Stack) options() ([]grpc.DialOption, []grpc.ServerOption, error) {
	switch s {
	case Header:
		return []grpc.DialOption{grpc.WithUnaryInterceptor(withHeader())}, nil, nil
	case Hopbound:
		client, err := interceptors.NewClient()
		if err != nil {
			return nil, nil, fmt.Errorf("client: %w", err)
		}
		server, err := interceptors.NewServer()
		if err != nil {
			return nil, nil, fmt.Errorf("server: %w", err)
		}
		return client.DialOptions(), server.ServerOptions(), nil
	default:
		return nil, nil, nil
	}
}

// withHeader returns an interceptor that does nothing but send a header as long
// as Hopbound's, which like that one has not been sent before: what a header of
// this kind costs in gRPC itself.
func withHeader() grpc.UnaryClientInterceptor {
	const same = "1;d=1790000000000000;s=1790000000000000;c=0123456789abcdef;"
	var n atomic.Int64
	n.Store(1_000_000)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx = metadata.AppendToOutgoingContext(ctx, "bench-context", same+strconv.FormatInt(n.Add(1), 10))
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}

// Healthy is a unary call with a deadline, over a connection in memory, that
// succeeds.
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
