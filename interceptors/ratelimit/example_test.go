package ratelimit_test

import (
	"context"
	"fmt"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/ratelimit"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// At a server, a limiter belongs after Hopbound, whose deadlines it needs.
func Example() {
	server, err := interceptors.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	tenant := func(ctx context.Context) string { // which an authentication before has checked
		if values := metadata.ValueFromIncomingContext(ctx, "tenant"); len(values) == 1 {
			return values[0]
		}
		return ""
	}
	limits, err := ratelimit.New(
		ratelimit.Rate(1000, 100),           // of all callers
		ratelimit.PerCaller(50, 20, tenant), // of each
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(append(server.ServerOptions(), limits.ServerOptions()...)...)
	defer srv.Stop()
	fmt.Println("at most 1,000 calls in a second, and 50 of one tenant")
	// Output: at most 1,000 calls in a second, and 50 of one tenant
}
