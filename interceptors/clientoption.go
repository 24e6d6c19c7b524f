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

// WithAttemptSpans sets the kind of the spans of attempts. Without it, they are CLIENT spans, except on
// connections whose stats handler, such as otelgrpc's, creates a CLIENT span below each attempt: there
// they are INTERNAL. The first attempt of a connection shows whether there is such a handler, so that its
// own span is always a CLIENT span. Set [trace.SpanKindInternal] if that matters.
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
// of ten. Without such a stats handler, attempts have no spans.
func WithFoldedAttempts() ClientOption {
	return clientOption(func(s *clientSettings) { s.foldAttempts = true })
}

// WithBudget sets the retry budget. Its settings apply to each request whose first call this client
// makes, and its target budgets pay for the extra attempts that this client sends to each target. The
// default is [budget.New], for this client alone.
//
// Clients may share a budget. Then their connections to one target share a target budget.
//
// If a process has several budgets, give each a name by [budget.Name]: metrics distinguish them by
// nothing else.
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

// WithPolicy sets how the calls of each method are made. The default is the zero [Policy] for all. A
// field of a policy that is zero is left to the next of these sources. Retry and Hedge count as one field.
//
//  1. the call's own options: [UsePolicy], [NoRetry]
//  2. WithPolicy
//  3. [WithServiceConfig]
//  4. the connection's service config, of its resolver or of [grpc.WithDefaultServiceConfig]
//  5. the option (hopbound.v1.method) in the method's proto file
//  6. the defaults
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

// WithServiceConfig sets how calls are made by a gRPC service config in JSON. Hopbound uses the names,
// timeout, waitForReady, retryPolicy and hedgingPolicy of its methodConfig, and its retryThrottling, as
// gRFC A6 defines them. [NewClient] returns all errors, each with the path of its value. Fields that A6
// does not define are ignored.
//
// The connection's own service config, of its resolver or of [grpc.WithDefaultServiceConfig], is the
// next source of policies. Hopbound uses its retryPolicy, timeout and waitForReady without this option,
// and gRPC uses its load balancing and message sizes. Its hedgingPolicy and retryThrottling have an
// effect only if they are given here.
func WithServiceConfig(json string) ClientOption {
	return clientOption(func(s *clientSettings) {
		config, err := policy.ParseServiceConfig(json)
		s.config = config
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("WithServiceConfig: %w", err))
		}
	})
}

// WithStreamBuffer limits how many bytes of sent messages are kept for retries of streams: of one call,
// and of all calls of the client. A stream that sends more goes on, but is not retried any more. The
// defaults are 256 KiB and 16 MiB, as in gRPC. Zero keeps nothing. The call option
// [grpc.MaxRetryRPCBufferSize] overrides the limit of a call.
func WithStreamBuffer(call, client int) ClientOption {
	return clientOption(func(s *clientSettings) {
		if call < 0 || client < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithStreamBuffer(%d, %d): must not be negative", call, client))
		}
		s.callBuffer, s.clientBuffer = call, client
	})
}

// WithReserve keeps d in reserve for the reply to come back: callees are told a deadline that is
// earlier by d, but at most by a fifth of the remaining time. By default, the reserve is learned from
// the round trips of each target.
func WithReserve(d time.Duration) ClientOption {
	return clientOption(func(s *clientSettings) {
		if d < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithReserve(%v): must not be negative", d))
		}
		s.reserve, s.fixedReserve = d, true
	})
}

// WithStrictSafety retries a call that a server may have seen only if its method is declared idempotent
// or its idempotency key makes it safe to retry. A [RetryPolicy] does not count as such a declaration.
func WithStrictSafety() ClientOption {
	return clientOption(func(s *clientSettings) { s.strict = true })
}
