package interceptors_test

import (
	"context"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
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
		server := newServer(t, interceptors.WithIdempotency(idempotency.NewMemory()))
		chain := []grpc.UnaryServerInterceptor{server.UnaryInterceptor(), authenticate}
		if before {
			chain = []grpc.UnaryServerInterceptor{authenticate, server.UnaryInterceptor()}
		}
		n := newNode(t, grpc.ChainUnaryInterceptor(chain...))
		b := &bank{}
		testv1.RegisterTestServiceServer(n.server, b)
		n.start()
		c := n.customer()
		if _, err := c.pay(metadata.AppendToOutgoingContext(t.Context(), "token", "secret"), "k", rent()); err != nil {
			t.Fatal(err)
		}
		got, err := c.pay(t.Context(), "k", rent())
		if refused := status.Code(err) == codes.Unauthenticated; refused != before {
			t.Errorf("authentication %s Hopbound: a stranger with the key got %q, %v", name, got, err)
		}
		if _, err := c.pay(t.Context(), "another", rent()); status.Code(err) != codes.Unauthenticated || b.calls.Load() != 1 {
			t.Errorf("authentication %s Hopbound: a stranger with a new key got %v after %d payments", name, err, b.calls.Load())
		}
	}
}
