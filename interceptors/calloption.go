package interceptors

import (
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/outbound"
	"google.golang.org/grpc"
)

// UsePolicy returns a call option that sets the policy of one call. The fields that are set in p take
// precedence over all other sources of policies, and over earlier options of the call. An invalid policy
// fails the call with INVALID_ARGUMENT. Without a [Client] on the connection, the option has no effect.
func UsePolicy(p Policy) grpc.CallOption {
	resolved := p.resolve()
	return outbound.PolicyOption{Policy: resolved, Err: resolved.Validate()}
}

// NoRetry returns a call option with which the call is neither retried nor hedged, unless a later option
// of the call says otherwise. Without a [Client] on the connection, the option has no effect.
func NoRetry() grpc.CallOption { return UsePolicy(Policy{Retry: &RetryPolicy{MaxAttempts: 1}}) }

// UseKey returns a call option that sends an idempotency key with the call. The option takes precedence
// over a key in the context; see [idempotency.WithKey]. Without a [Client] on the connection, it has no
// effect.
func UseKey(key idempotency.Key) grpc.CallOption { return outbound.KeyOption{Key: key} }

// Reached returns a call option that reports in *to, when the call ends, whether a server may have seen the call. If it is
// false, the call had no effect, and its target had no work with it. Set *to to true before the call: without a [Client]
// on the connection it is not changed.
func Reached(to *bool) grpc.CallOption { return outbound.ReachedOption{To: to} }

// Target returns a call option that names the target of a call that has no [grpc.ClientConn]. The target's budget,
// telemetry and reserve have this name.
//
// For transports: an adapter for another protocol calls the interceptor of a [Client] with a nil connection, and makes the
// attempts itself.
func Target(name string) grpc.CallOption { return outbound.TargetOption{Name: name} }
