package harness

import (
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
)

// FastRetry is the default policy with a backoff of a microsecond.
func FastRetry() interceptors.ClientOption { return FastRetryUpTo(3) }

// FastRetryUpTo is FastRetry with another number of attempts.
func FastRetryUpTo(attempts int) interceptors.ClientOption {
	return interceptors.WithPolicy(interceptors.MethodPolicies{"": {
		Idempotency: interceptors.Unspecified,
		Retry: &interceptors.RetryPolicy{
			MaxAttempts: attempts,
			Backoff:     interceptors.Backoff{Base: time.Microsecond, Max: time.Microsecond},
		},
	}})
}

// Policy is one policy for all methods.
func Policy(p interceptors.Policy) interceptors.ClientOption {
	return interceptors.WithPolicy(interceptors.MethodPolicies{"": p})
}

// FixedBudget returns a budget that earns nothing. It has three tokens for each request, and ten for
// each target.
func FixedBudget(opts ...budget.Option) *budget.Budget {
	return budget.New(append([]budget.Option{
		budget.Ratio(0), budget.MinPerSecond(0), budget.PerRequest(3), budget.Burst(10),
	}, opts...)...)
}

// Balance returns how many tokens the bucket of [Target] holds.
func Balance(b *budget.Budget) float64 { return b.Balance(Target) }

// Hedging is a policy that hedges all methods.
func Hedging(h interceptors.HedgePolicy) interceptors.ClientOption {
	return Policy(interceptors.Policy{Hedge: &h})
}

// nativeRetries turns on grpc-go's own retries: three attempts on UNAVAILABLE.
const nativeRetries = `{"methodConfig": [{"name": [{}], "retryPolicy": {
	"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
	"retryableStatusCodes": ["UNAVAILABLE"]}}]}`

// NativeRetry turns on grpc-go's own retries: three attempts on UNAVAILABLE.
func NativeRetry() grpc.DialOption { return grpc.WithDefaultServiceConfig(nativeRetries) }

// FourTokens returns a fixed budget of four tokens for each target, and one for each request.
func FourTokens() *budget.Budget { return FixedBudget(budget.Burst(4), budget.PerRequest(1)) }

// FixedBackoff is a policy of three attempts, 5 ms apart.
func FixedBackoff() interceptors.ClientOption {
	return Policy(interceptors.Policy{Retry: &interceptors.RetryPolicy{
		MaxAttempts: 3, Backoff: interceptors.Backoff{Base: 5 * time.Millisecond, Multiplier: 1, Jitter: interceptors.NoJitter},
	}})
}
