package interceptors

import (
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/outbound"
	"google.golang.org/grpc"
)

// UsePolicy returns a call option. The fields that are set in p take precedence over all other sources of
// policies, and over options before it. An invalid policy fails the call with INVALID_ARGUMENT. Without a
// [Client] on the connection, the option has no effect.
func UsePolicy(p Policy) grpc.CallOption {
	resolved := p.resolve()
	return outbound.PolicyOption{Policy: resolved, Err: resolved.Validate()}
}

// NoRetry returns a call option. The call is neither retried nor hedged, unless an option after it says
// otherwise. Without a [Client] on the connection, the option has no effect.
func NoRetry() grpc.CallOption { return UsePolicy(Policy{Retry: &RetryPolicy{MaxAttempts: 1}}) }

// UseKey returns a call option that sends an idempotency key. It takes precedence over a key in the
// context; see [idempotency.WithKey]. Without a [Client] on the connection, the option has no effect.
func UseKey(key idempotency.Key) grpc.CallOption { return outbound.KeyOption{Key: key} }
