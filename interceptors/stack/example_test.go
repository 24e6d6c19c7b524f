package stack_test

import (
	"context"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"github.com/hopbound/hopbound/interceptors/fallback"
	"github.com/hopbound/hopbound/interceptors/ratelimit"
	"github.com/hopbound/hopbound/interceptors/stack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// newClient makes the parts of a client's stack and composes them.
func newClient() (*stack.Client, error) {
	fallbacks, err := fallback.New(fallback.For("/grpc.health.v1.Health/Check", fallback.Default(
		func(context.Context, *healthpb.HealthCheckRequest, error) (*healthpb.HealthCheckResponse, error) {
			return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_UNKNOWN}, nil
		})))
	if err != nil {
		return nil, err
	}
	hopbound, err := interceptors.NewClient()
	if err != nil {
		return nil, err
	}
	breakers, err := breaker.New()
	if err != nil {
		return nil, err
	}
	places, err := bulkhead.New(64)
	if err != nil {
		return nil, err
	}
	limits, err := ratelimit.New()
	if err != nil {
		return nil, err
	}
	return stack.NewClient(
		stack.Fallback(fallbacks),
		stack.Retry(hopbound),
		stack.Breaker(breakers),
		stack.Bulkhead(places),
		stack.AttemptTimeout(time.Second),
		stack.RateLimit(limits),
	)
}

// A client's stack, in the order in which calls and attempts pass its parts.
func Example() {
	client, err := newClient()
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient("dns:///stock:443", append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()

	fmt.Println(client)
	// Output:
	// unary calls: fallback → retry and budget → breaker → bulkhead → attempt timeout → rate limit
	// streams: retry and budget → breaker → rate limit
}

// A wrong order is an error that says the right one.
func ExampleNewClient_wrongOrder() {
	hopbound, err := interceptors.NewClient()
	if err != nil {
		fmt.Println(err)
		return
	}
	breakers, err := breaker.New()
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = stack.NewClient(stack.Breaker(breakers), stack.Retry(hopbound))
	fmt.Println(err)
	// Output:
	// stack: retry and budget must come before breaker; the order is fallback → retry and budget → breaker → bulkhead → attempt timeout → rate limit → fault → trace
}
