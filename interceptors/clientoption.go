package interceptors

import (
	"errors"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/internal/policy"
	"go.opentelemetry.io/otel/trace"
)

// Defaults of [WithStreamBuffer], which are grpc-go's.
const (
	defaultCallBuffer   = 256 << 10
	defaultClientBuffer = 16 << 20
)

type clientSettings struct {
	shared
	budget       *budget.Budget
	policies     Policies
	config       policy.ServiceConfig
	callBuffer   int
	clientBuffer int
	reserve      time.Duration
	fixedReserve bool
	attemptKind  trace.SpanKind
	foldAttempts bool
	strict       bool
	errs         []error
}

type clientOption func(*clientSettings)

func (f clientOption) applyClient(s *clientSettings) { f(s) }

// WithAttemptSpans sets the kind of attempt spans. By default, they are CLIENT spans. On a connection whose
// stats handler, such as otelgrpc's, creates a CLIENT span below each attempt, they are INTERNAL spans by
// default. The first attempt of a connection shows whether there is such a handler. If there is one, the first
// attempt has no span of its own, and the handler's span has its attributes.
func WithAttemptSpans(kind trace.SpanKind) ClientOption {
	return clientOption(func(s *clientSettings) {
		if kind != trace.SpanKindInternal && kind != trace.SpanKindClient {
			s.errs = append(s.errs, fmt.Errorf("WithAttemptSpans(%v): must be internal or client", kind))
		}
		s.attemptKind = kind
	})
}

// WithFoldedAttempts creates no spans of attempts. The CLIENT span that otelgrpc's stats handler creates
// for each attempt has the attributes with which the attempt started, and an event hopbound.attempt of the
// call's span says what was decided when it ended. A call with two retries then has seven spans instead
// of ten. Without such a stats handler, attempts have CLIENT spans of their own.
func WithFoldedAttempts() ClientOption {
	return clientOption(func(s *clientSettings) { s.foldAttempts = true })
}

// WithBudget sets the retry budget. Its settings apply to each request whose first call this client
// makes, and its target budgets pay for the extra attempts that this client sends to each target. The
// default is [budget.New], for this client alone.
//
// Clients may share a budget. Then their connections to one target share a target budget.
//
// If a process has several budgets, give each a name with [budget.Name], because metrics distinguish
// budgets only by their names.
func WithBudget(b *budget.Budget) ClientOption {
	return clientOption(func(s *clientSettings) {
		if b == nil {
			s.errs = append(s.errs, errors.New("WithBudget: nil"))
			return
		}
		s.budget = b
		if err := b.Err(); err != nil {
			s.errs = append(s.errs, fmt.Errorf("WithBudget: %w", err))
		}
	})
}

// WithPolicy sets how the calls of each method are made. The default is the zero [Policy] for all methods.
// Each field of a call's policy has the value of the first of these sources in which it is not zero. Retry
// and Hedge count as one field.
//
//  1. the call's own options: [UsePolicy], [NoRetry]
//  2. WithPolicy
//  3. [WithServiceConfig]
//  4. the connection's service config, of its resolver or of [grpc.WithDefaultServiceConfig]
//  5. the option (hopbound.v1.method) in the method's proto file
//  6. the defaults
//
// A timeout in the connection's service config also limits each attempt, because gRPC itself applies it. A longer
// timeout of another source does not change that.
func WithPolicy(policies Policies) ClientOption {
	return clientOption(func(s *clientSettings) {
		if isNil(policies) {
			s.errs = append(s.errs, errors.New("WithPolicy: nil"))
			return
		}
		s.policies = policies
		if m, ok := policies.(MethodPolicies); ok {
			s.errs = append(s.errs, m.byName().Validate())
		}
	})
}

// WithServiceConfig sets policies by a gRPC service config in JSON. Hopbound uses the names, timeout,
// waitForReady, retryPolicy and hedgingPolicy of its methodConfig, and its retryThrottling, as gRFC A6
// defines them. [NewClient] returns all errors, each with the path of its value. Fields that A6 does not
// define are ignored.
//
// The connection's own service config, of its resolver or of [grpc.WithDefaultServiceConfig], is the next
// source of policies. Without this option too, Hopbound uses the retryPolicy, timeout and waitForReady of
// the connection's service config, and gRPC uses its load balancing and message sizes. A hedgingPolicy and
// a retryThrottling have an effect only if they are passed to WithServiceConfig.
func WithServiceConfig(json string) ClientOption {
	return clientOption(func(s *clientSettings) {
		config, err := policy.ParseServiceConfig(json)
		s.config = config
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("WithServiceConfig: %w", err))
		}
	})
}

// WithStreamBuffer limits the bytes of sent messages that are kept for the retries of streams: call is the
// limit of one call, and client that of all calls of the client together. A stream that sends more than
// can be kept goes on, but is no longer retried. The defaults are 256 KiB and 16 MiB, as in gRPC. Zero
// keeps nothing. The call option [grpc.MaxRetryRPCBufferSize] overrides the limit of a call.
func WithStreamBuffer(call, client int) ClientOption {
	return clientOption(func(s *clientSettings) {
		if call < 0 || client < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithStreamBuffer(%d, %d): must not be negative", call, client))
		}
		s.callBuffer, s.clientBuffer = call, client
	})
}

// WithReserve sets the time that is kept in reserve for the reply's way back: the deadline that a callee
// receives is earlier by d, but by at most a fifth of the remaining time. With zero, there is no reserve.
// By default, the reserve is learned from the round trips of each target.
func WithReserve(d time.Duration) ClientOption {
	return clientOption(func(s *clientSettings) {
		if d < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithReserve(%v): must not be negative", d))
		}
		s.reserve, s.fixedReserve = d, true
	})
}

// WithStrictSafety retries a call that a server may have seen only if its method is declared idempotent or
// its idempotency key makes it safe to retry. A [RetryPolicy] or a [HedgePolicy] does not count as such a
// declaration.
func WithStrictSafety() ClientOption {
	return clientOption(func(s *clientSettings) { s.strict = true })
}
