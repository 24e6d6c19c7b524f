package interceptors_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
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

// A service that may bear one retry for two successes, and an HTTP handler whose
// calls share one request budget.
func Example_budget() {
	b := budget.New(budget.Ratio(0.5))
	client, err := interceptors.NewClient(interceptors.WithBudget(b))
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = client.DialOptions() // for the connections that the handler calls through

	page := func(_ http.ResponseWriter, r *http.Request) {
		ctx, end := budget.NewRoot(r.Context(), b)
		defer end(true)

		a, _ := budget.FromContext(ctx)
		fmt.Println(a.Free(), "extra attempts for all calls of the page")
	}
	page(nil, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", http.NoBody))
	// Output: 10 extra attempts for all calls of the page
}
