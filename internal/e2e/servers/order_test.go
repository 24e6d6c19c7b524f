package servers_test

import (
	"context"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// authenticate lets in only callers that have the token.
func authenticate(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if token := metadata.ValueFromIncomingContext(ctx, "token"); len(token) != 1 || token[0] != "secret" {
		return nil, status.Error(codes.Unauthenticated, "who are you?")
	}
	return next(ctx, req)
}

// The documents say that authentication comes before Hopbound. This is why.
func TestAuthenticationComesBeforeReplays(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"before": true, "after": false} {
		server := harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory()))
		chain := []grpc.UnaryServerInterceptor{server.UnaryInterceptor(), authenticate}
		if before {
			chain = []grpc.UnaryServerInterceptor{authenticate, server.UnaryInterceptor()}
		}
		n := harness.NewNode(t, grpc.ChainUnaryInterceptor(chain...))
		b := &harness.Bank{}
		testv1.RegisterTestServiceServer(n.Server, b)
		n.Start()
		c := n.Customer()
		if _, err := c.PayWithKey(metadata.AppendToOutgoingContext(t.Context(), "token", "secret"), "k", harness.Rent()); err != nil {
			t.Fatal(err)
		}
		got, err := c.PayWithKey(t.Context(), "k", harness.Rent())
		if refused := status.Code(err) == codes.Unauthenticated; refused != before {
			t.Errorf("authentication %s Hopbound: a stranger with the key got %q, %v", name, got, err)
		}
		if _, err := c.PayWithKey(t.Context(), "another", harness.Rent()); status.Code(err) != codes.Unauthenticated || b.Calls.Load() != 1 {
			t.Errorf("authentication %s Hopbound: a stranger with a new key got %v after %d payments", name, err, b.Calls.Load())
		}
	}
}
