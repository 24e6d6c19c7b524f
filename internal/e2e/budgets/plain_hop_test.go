package budgets_test

import (
	"context"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// plainHop is a service without Hopbound, as docs/wire.md shows it.
type plainHop struct {
	testv1.UnimplementedTestServiceServer
	orders ordersClient // of the service below
}

type ordersClient struct{ testv1.TestServiceClient }

func (c ordersClient) Get(ctx context.Context, request *testv1.IdempotentRequest, opts ...grpc.CallOption) (*testv1.IdempotentResponse, error) {
	return c.Idempotent(ctx, request, opts...)
}

func (h plainHop) Idempotent(ctx context.Context, request *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	orders := h.orders
	var trailer metadata.MD
	reply, err := orders.Get(ctx, request, grpc.Trailer(&trailer))
	if err != nil {
		if pushback := trailer["grpc-retry-pushback-ms"]; len(pushback) > 0 {
			_ = grpc.SetTrailer(ctx, metadata.MD{"grpc-retry-pushback-ms": pushback})
		}
		return nil, err
	}
	return reply, nil
}
