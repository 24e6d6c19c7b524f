package shop

import (
	"slices"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"github.com/hopbound/hopbound/interceptors/health"
	"github.com/hopbound/hopbound/interceptors/stack"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// nativeRetries is a service config with gRPC's own retries.
const nativeRetries = `{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 3, "initialBackoff": "0.02s", "maxBackoff": "0.2s", "backoffMultiplier": 2,
	"retryableStatusCodes": ["UNAVAILABLE", "DEADLINE_EXCEEDED"]}}]}`

// Connect returns a connection of a service or a customer to the instances of a role.
func (c *Config) Connect(name, role string, traces trace.TracerProvider) (*grpc.ClientConn, error) {
	security, err := credentialsOf(c.Folder, name, role)
	if err != nil {
		return nil, err
	}
	addresses := resolver.State{}
	for _, a := range c.Targets[role] {
		addresses.Addresses = append(addresses.Addresses, resolver.Address{Addr: a})
	}
	names := manual.NewBuilderWithScheme("shop")
	names.InitialState(addresses)
	opts := []grpc.DialOption{grpc.WithResolvers(names), grpc.WithTransportCredentials(security)}
	if c.Native {
		return grpc.NewClient("shop:///"+role, append(opts, grpc.WithDefaultServiceConfig(nativeRetries))...)
	}
	alive, err := health.NewClient(health.DetectWithin(12*time.Second), health.ConnectWithin(time.Second), health.CheckService(""))
	if err != nil {
		return nil, err
	}
	client, err := c.stack(role, traces)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("shop:///"+role, slices.Concat(opts, client.DialOptions(), alive.DialOptions())...)
}

// stack returns the client's stack. Only the bank has a breaker, because only for the bank there is something else to do.
func (c *Config) stack(role string, traces trace.TracerProvider) (*stack.Client, error) {
	policy := interceptors.Policy{
		AttemptTimeout: c.Deadline / 2,
		Retry: &interceptors.RetryPolicy{
			MaxAttempts: 4, Codes: []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Aborted},
			Backoff: interceptors.Backoff{Base: 50 * time.Millisecond, Max: time.Second},
		},
	}
	if role == Bank {
		policy.Timeout, policy.AttemptTimeout, policy.Retry.MaxAttempts = c.Deadline, c.Deadline/2, 2
	}
	client, err := interceptors.NewClient(interceptors.WithTracerProvider(traces), interceptors.WithPropagators(propagation.TraceContext{}),
		interceptors.WithPolicy(interceptors.MethodPolicies{"": policy}))
	if err != nil {
		return nil, err
	}
	if role != Bank {
		return stack.NewClient(stack.Retry(client))
	}
	breakers, err := breaker.New(breaker.PerTarget(), breaker.ConsecutiveFailures(5), breaker.OpenFor(time.Second))
	if err != nil {
		return nil, err
	}
	return stack.NewClient(stack.Retry(client), stack.Breaker(breakers))
}
