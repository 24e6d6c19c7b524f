// Package companiontest has what the tests of the companions share: a server in memory whose calls end as a test says.
// Anything that only one companion's tests need belongs there.
package companiontest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// The target of connections and the methods of the server.
const (
	Target = "passthrough:///leaf"
	Check  = "/grpc.health.v1.Health/Check"
	Watch  = "/grpc.health.v1.Health/Watch"
)

// Server is a server with a unary call and a stream, which sends one message before it ends.
type Server struct {
	healthpb.UnimplementedHealthServer
	Calls  atomic.Int64
	Handle func(ctx context.Context) error
	Status healthpb.HealthCheckResponse_ServingStatus // of replies
}

// Check implements the unary call.
func (s *Server) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	s.Calls.Add(1)
	return &healthpb.HealthCheckResponse{Status: s.Status}, s.Handle(ctx)
}

// Watch implements the stream.
func (s *Server) Watch(_ *healthpb.HealthCheckRequest, ss grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	s.Calls.Add(1)
	if err := ss.Send(&healthpb.HealthCheckResponse{}); err != nil {
		return err
	}
	return s.Handle(ss.Context())
}

// Connect serves in memory until the test ends, and connects.
func Connect(t testing.TB, s *Server, serve []grpc.ServerOption, dial ...grpc.DialOption) healthpb.HealthClient {
	t.Helper()
	return healthpb.NewHealthClient(Dial(t, s, serve, dial...))
}

// Dial serves in memory until the test ends, and returns a connection.
func Dial(t testing.TB, s *Server, serve []grpc.ServerOption, dial ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(append(serve, grpc.WaitForHandlers(true))...)
	healthpb.RegisterHealthServer(server, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	cc, err := grpc.NewClient(Target, append(dial, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cc.Close()
		server.Stop()
		<-done
	})
	return cc
}

// Call makes the unary call, or the stream and reads it to its end.
func Call(ctx context.Context, c healthpb.HealthClient, stream bool, opts ...grpc.CallOption) error {
	if !stream {
		_, err := c.Check(ctx, &healthpb.HealthCheckRequest{}, opts...)
		return err
	}
	ss, err := c.Watch(ctx, &healthpb.HealthCheckRequest{}, opts...)
	for err == nil {
		_, err = ss.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Rejected reports whether an error has a code and a reason of Hopbound, and how long it says to wait.
func Rejected(err error, code codes.Code, reason string) (wait time.Duration, ok bool) {
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			ok = ok || d.GetDomain() == "hopbound" && d.GetReason() == reason
		case *errdetails.RetryInfo:
			wait = d.GetRetryDelay().AsDuration()
		}
	}
	return wait, ok && status.Code(err) == code
}
