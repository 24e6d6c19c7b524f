package bench

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

type echo struct {
	testv1.UnimplementedTestServiceServer
}

func (echo) Idempotent(_ context.Context, req *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	return &testv1.IdempotentResponse{Text: req.GetText()}, nil
}

// Healthy is a unary call with a deadline, over a connection in memory, that
// succeeds.
type Healthy struct {
	client testv1.TestServiceClient
	close  func()
}

// NewHealthy starts a server and connects to it, with Hopbound on both ends or
// on neither.
func NewHealthy(hopbound bool) (*Healthy, error) {
	var (
		dial  []grpc.DialOption
		serve []grpc.ServerOption
	)
	if hopbound {
		client, err := interceptors.NewClient()
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		server, err := interceptors.NewServer()
		if err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
		dial, serve = client.DialOptions(), server.ServerOptions()
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
