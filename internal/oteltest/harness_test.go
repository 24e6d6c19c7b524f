package oteltest

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers all methods with one function: a unary call and each kind of
// stream.
type service struct {
	testv1.UnimplementedTestServiceServer
	handle func(ctx context.Context) error
}

func (s service) Idempotent(ctx context.Context, _ *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	return &testv1.IdempotentResponse{}, s.handle(ctx)
}

func (s service) Watch(_ *testv1.WatchRequest, ss grpc.ServerStreamingServer[testv1.WatchResponse]) error {
	if err := s.handle(ss.Context()); err != nil {
		return err
	}
	return ss.Send(&testv1.WatchResponse{})
}

func (s service) Upload(ss grpc.ClientStreamingServer[testv1.UploadRequest, testv1.UploadResponse]) error {
	for {
		if _, err := ss.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
	}
	if err := s.handle(ss.Context()); err != nil {
		return err
	}
	return ss.SendAndClose(&testv1.UploadResponse{})
}

func (s service) Chat(ss grpc.BidiStreamingServer[testv1.ChatRequest, testv1.ChatResponse]) error {
	if _, err := ss.Recv(); err != nil {
		return err
	}
	if err := s.handle(ss.Context()); err != nil {
		return err
	}
	return ss.Send(&testv1.ChatResponse{})
}

// calls are the ways to call the service.
func calls() map[string]func(ctx context.Context, cc *grpc.ClientConn) error {
	return map[string]func(ctx context.Context, cc *grpc.ClientConn) error{
		"unary": func(ctx context.Context, cc *grpc.ClientConn) error {
			_, err := testv1.NewTestServiceClient(cc).Idempotent(ctx, &testv1.IdempotentRequest{})
			return err
		},
		"server stream": func(ctx context.Context, cc *grpc.ClientConn) error {
			ss, err := testv1.NewTestServiceClient(cc).Watch(ctx, &testv1.WatchRequest{})
			for err == nil {
				_, err = ss.Recv()
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		},
		"bidirectional stream": func(ctx context.Context, cc *grpc.ClientConn) error {
			ss, err := testv1.NewTestServiceClient(cc).Chat(ctx)
			if err != nil {
				return err
			}
			_ = ss.Send(&testv1.ChatRequest{})
			_ = ss.CloseSend()
			for err == nil {
				_, err = ss.Recv()
			}
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return err
		},
		"client stream": func(ctx context.Context, cc *grpc.ClientConn) error {
			ss, err := testv1.NewTestServiceClient(cc).Upload(ctx)
			if err != nil {
				return err
			}
			_ = ss.Send(&testv1.UploadRequest{})
			_, err = ss.CloseAndRecv()
			return err
		},
	}
}

// serve serves the test service in memory until the test ends, and returns a way to connect.
func serve(t testing.TB, handle func(ctx context.Context) error, opts ...grpc.ServerOption) func(opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	return register(t, func(s *grpc.Server) { testv1.RegisterTestServiceServer(s, service{handle: handle}) }, opts...)
}

// register serves services in memory until the test ends, and returns a way to connect.
func register(t testing.TB, services func(s *grpc.Server), opts ...grpc.ServerOption) func(opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(append(opts, grpc.WaitForHandlers(true))...)
	services(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return func(opts ...grpc.DialOption) *grpc.ClientConn {
		t.Helper()
		cc, err := grpc.NewClient("passthrough:///node", append(opts,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cc.Close() })
		return cc
	}
}

func client(t testing.TB, opts ...interceptors.ClientOption) []grpc.DialOption {
	t.Helper()
	c, err := interceptors.NewClient(append(opts, interceptors.WithPolicy(interceptors.MethodPolicies{"": {
		Retry: &interceptors.RetryPolicy{MaxAttempts: 3, Backoff: interceptors.Backoff{Base: 1, Max: 1}},
	}}))...)
	if err != nil {
		t.Fatal(err)
	}
	return c.DialOptions()
}

func server(t testing.TB, opts ...interceptors.ServerOption) []grpc.ServerOption {
	t.Helper()
	s, err := interceptors.NewServer(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s.ServerOptions()
}

// byID returns spans by their identifiers.
func byID(spans []sdktrace.ReadOnlySpan) map[trace.SpanID]sdktrace.ReadOnlySpan {
	found := map[trace.SpanID]sdktrace.ReadOnlySpan{}
	for _, s := range spans {
		found[s.SpanContext().SpanID()] = s
	}
	return found
}
