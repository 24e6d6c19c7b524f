package fallback_test

import (
	"context"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/fallback"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// A call that fails is answered by a replica, by the last reply for the same request, or by a default.
func Example() {
	creds := grpc.WithTransportCredentials(insecure.NewCredentials())
	client, err := interceptors.NewClient()
	if err != nil {
		fmt.Println(err)
		return
	}
	replica, err := grpc.NewClient("passthrough:///127.0.0.1:1", append(client.DialOptions(), creds)...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer replica.Close()
	const method = healthpb.Health_Check_FullMethodName

	fallbacks, err := fallback.New(
		fallback.For(method,
			fallback.Target(replica),
			fallback.Cache(5*time.Minute, func(_ context.Context, r *healthpb.HealthCheckRequest) string { return r.GetService() }),
			fallback.Default(func(context.Context, *healthpb.HealthCheckRequest, error) (*healthpb.HealthCheckResponse, error) {
				return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_UNKNOWN}, nil
			}),
		),
		fallback.DeclareSafe(method), // the health service's methods have no idempotency_level
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:1", append(append(fallbacks.DialOptions(), client.DialOptions()...), creds)...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()

	var header metadata.MD // nobody listens on port 1
	reply, err := healthpb.NewHealthClient(conn).Check(context.Background(), &healthpb.HealthCheckRequest{}, grpc.Header(&header))
	fmt.Println(reply.GetStatus(), err, header.Get(fallback.Header))
	// Output: UNKNOWN <nil> [default]
}
