package harness

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Call calls a method of the test service.
type Call func(ctx context.Context, opts ...grpc.CallOption) error

// Idempotent returns a call of a method that is declared idempotent.
func Idempotent(cc *grpc.ClientConn) Call {
	c := testv1.NewTestServiceClient(cc)
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := c.Idempotent(ctx, &testv1.IdempotentRequest{}, opts...)
		return err
	}
}

// Write returns a call of a method that is not declared idempotent.
func Write(cc *grpc.ClientConn) Call {
	c := testv1.NewTestServiceClient(cc)
	return func(ctx context.Context, opts ...grpc.CallOption) error {
		_, err := c.Write(ctx, &testv1.WriteRequest{}, opts...)
		return err
	}
}

// NewClient returns a client of Hopbound, or fails the test.
func NewClient(t testing.TB, opts ...interceptors.ClientOption) *interceptors.Client {
	t.Helper()
	c, err := interceptors.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// NewServer returns a server of Hopbound, or fails the test.
func NewServer(t testing.TB, opts ...interceptors.ServerOption) *interceptors.Server {
	t.Helper()
	s, err := interceptors.NewServer(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// HeaderField returns a field of the incoming call's hop-context, or "".
func HeaderField(ctx context.Context, field string) string {
	for _, value := range metadata.ValueFromIncomingContext(ctx, wire.ContextKey) {
		for part := range strings.SplitSeq(value, ";") {
			if v, ok := strings.CutPrefix(part, field+"="); ok {
				return v
			}
		}
	}
	return ""
}

// Within makes a call with a timeout.
func Within(t testing.TB, do Call, timeout time.Duration, opts ...grpc.CallOption) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	return do(ctx, opts...)
}
