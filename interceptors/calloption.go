package interceptors

import (
	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc"
)

// The call options of this package are read by a [Client]. To gRPC, and on a
// connection without one, they mean nothing.

type policyCallOption struct {
	grpc.EmptyCallOption
	policy Policy
	err    error
}

type keyCallOption struct {
	grpc.EmptyCallOption
	key idempotency.Key
}

// UsePolicy returns an option for one call: the fields that are set in p weigh
// more than what any other source says of the method, and than those of an
// option before it. A policy that is not valid fails the call with
// INVALID_ARGUMENT.
func UsePolicy(p Policy) grpc.CallOption { return policyCallOption{policy: p, err: p.validate()} }

// NoRetry returns an option for one call, which is made once: it is neither
// repeated nor hedged, unless an option after it says otherwise.
func NoRetry() grpc.CallOption { return UsePolicy(Policy{Retry: &RetryPolicy{MaxAttempts: 1}}) }

// UseKey returns an option for one call that sends an idempotency key, rather
// than one in the context. See [idempotency.WithKey].
func UseKey(key idempotency.Key) grpc.CallOption { return keyCallOption{key: key} }
