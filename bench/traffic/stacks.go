package main

import (
	"slices"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go"
	failsafebudget "github.com/failsafe-go/failsafe-go/budget"
	"github.com/failsafe-go/failsafe-go/failsafegrpc"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	_ "github.com/hopbound/hopbound/balancer/otherbackend" // hopbound_other_backend
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The names of the stacks, as in the tables.
const (
	grpcAlone  = "grpc"
	native     = "native"
	throttled  = "native+throttling"
	middleware = "middleware"
	failsafely = "failsafe"
	hopbound   = "hopbound"
)

// The retry policy of every stack: three attempts on UNAVAILABLE, with
// exponential backoff from 10 ms to 100 ms.
const (
	maxAttempts = 3
	baseBackoff = 10 * time.Millisecond
	maxBackoff  = 100 * time.Millisecond
	jitter      = 0.2 // that of grpc-go, for the stacks in which it can be set

	nativeRetryPolicy = `"methodConfig": [{"name": [{}], "retryPolicy": {
		"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.1s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE"]}}]`
	nativeThrottling = `"retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1}`
)

// Load-balancing settings, as parts of a service config. A client without one
// uses gRPC's default, pick_first.
const (
	roundRobin = `"loadBalancingConfig": [{"round_robin": {}}]`

	// hopboundBalancing is what Hopbound's clients use in the shapes
	// one-of-three-bad and one-of-three-hangs, where all others use round_robin.
	hopboundBalancing = `"loadBalancingConfig": [{"hopbound_other_backend": {}}]`
)

// callPolicy is the settings of a shape's clients, in addition to the retry policy. A stack ignores the settings that it
// does not support. The zero value has no settings.
type callPolicy struct {
	balancing      string         // part of a service config
	attemptTimeout time.Duration  // of each attempt
	hedgeDelay     time.Duration  // if it is not 0, Hopbound hedges after it instead of retrying
	budget         *budget.Budget // Hopbound's, if the shape needs to know it
}

// stack is a way to make calls and to serve them.
type stack struct {
	name  string
	dial  func(p callPolicy) ([]grpc.DialOption, error)
	serve func() ([]grpc.ServerOption, error) // nil for a plain server

	// unbounded is set if each hop multiplies the calls to a failing leaf. Outages are then measured with fewer
	// requests.
	unbounded bool
}

// allStacks returns the stacks in the order of the tables.
func allStacks() []stack {
	return []stack{
		{name: grpcAlone, dial: dialGRPC},
		{name: native, dial: dialNative(nativeRetryPolicy), unbounded: true},
		{name: throttled, dial: dialNative(nativeRetryPolicy, nativeThrottling)},
		{name: middleware, dial: dialMiddleware, unbounded: true},
		{name: failsafely, dial: dialFailsafe},
		{name: hopbound, dial: dialHopbound, serve: serveHopbound},
	}
}

// stacksNamed returns the stacks with the names. Without names, it returns all.
func stacksNamed(names ...string) []stack {
	all := allStacks()
	if len(names) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(s stack) bool { return !slices.Contains(names, s.name) })
}

// serviceConfig returns a dial option with a service config of the given parts. It ignores empty parts.
func serviceConfig(parts ...string) grpc.DialOption {
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	return grpc.WithDefaultServiceConfig("{" + strings.Join(parts, ", ") + "}")
}

func dialGRPC(p callPolicy) ([]grpc.DialOption, error) {
	return []grpc.DialOption{serviceConfig(p.balancing), grpc.WithDisableRetry()}, nil
}

func dialNative(parts ...string) func(callPolicy) ([]grpc.DialOption, error) {
	return func(p callPolicy) ([]grpc.DialOption, error) {
		return []grpc.DialOption{serviceConfig(append([]string{p.balancing}, parts...)...)}, nil
	}
}

func dialMiddleware(p callPolicy) ([]grpc.DialOption, error) {
	opts := []retry.CallOption{
		retry.WithMax(maxAttempts), // includes the first attempt
		retry.WithCodes(codes.Unavailable),
		retry.WithBackoff(retry.BackoffExponentialWithJitterBounded(baseBackoff, jitter, maxBackoff)),
	}
	if p.attemptTimeout > 0 {
		opts = append(opts, retry.WithPerRetryTimeout(p.attemptTimeout))
	}
	return []grpc.DialOption{
		serviceConfig(p.balancing),
		grpc.WithChainUnaryInterceptor(retry.UnaryClientInterceptor(opts...)),
		grpc.WithChainStreamInterceptor(retry.StreamClientInterceptor(opts...)),
	}, nil
}

// dialFailsafe retries unary calls within a budget of a tenth of the calls in flight. Failsafe-go has no interceptor for
// streams. It is not measured with hedging, because its interceptor lets two hedges write to one reply at the same
// time.
func dialFailsafe(p callPolicy) ([]grpc.DialOption, error) {
	retries := retrypolicy.NewBuilder[any]().
		HandleIf(func(_ any, err error) bool { return status.Code(err) == codes.Unavailable }).
		HandleErrors(timeout.ErrExceeded).
		WithMaxAttempts(maxAttempts).
		WithBackoff(baseBackoff, maxBackoff).
		WithJitterFactor(jitter).
		WithBudget(failsafebudget.NewBuilder().WithMaxRate(0.1).Build()).
		ReturnLastFailure().
		Build()
	policies := []failsafe.Policy[any]{retries}
	if p.attemptTimeout > 0 {
		policies = append(policies, timeout.New[any](p.attemptTimeout))
	}
	return []grpc.DialOption{
		serviceConfig(p.balancing),
		grpc.WithChainUnaryInterceptor(failsafegrpc.NewUnaryClientInterceptor(policies...)),
	}, nil
}

func dialHopbound(p callPolicy) ([]grpc.DialOption, error) {
	method := interceptors.Policy{AttemptTimeout: p.attemptTimeout}
	if p.hedgeDelay != 0 {
		method.Hedge = &interceptors.HedgePolicy{MaxAttempts: 2, Delay: p.hedgeDelay}
	} else {
		method.Retry = &interceptors.RetryPolicy{
			MaxAttempts: maxAttempts,
			Backoff:     interceptors.Backoff{Base: baseBackoff, Max: maxBackoff, Multiplier: 2},
		}
	}
	opts := []interceptors.ClientOption{interceptors.WithPolicy(interceptors.MethodPolicies{"": method})}
	if p.budget != nil {
		opts = append(opts, interceptors.WithBudget(p.budget))
	}
	client, err := interceptors.NewClient(opts...)
	if err != nil {
		return nil, err
	}
	return append(client.DialOptions(), serviceConfig(p.balancing)), nil
}

func serveHopbound() ([]grpc.ServerOption, error) {
	server, err := interceptors.NewServer()
	if err != nil {
		return nil, err
	}
	return server.ServerOptions(), nil
}
