package interceptors

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/peer"
)

// A ClientOption configures a [Client].
type ClientOption interface{ applyClient(s *clientSettings) }

// A ServerOption configures a [Server].
type ServerOption interface{ applyServer(s *serverSettings) }

// An Option configures a [Client] or a [Server].
type Option interface {
	ClientOption
	ServerOption
}

// settings are those that clients and servers share.
type settings struct {
	firstMode   Mode
	tracers     trace.TracerProvider
	meters      metric.MeterProvider
	propagators propagation.TextMapPropagator
	logger      *slog.Logger // nil is slog.Default
}

// log returns where to log.
func (s *settings) log() *slog.Logger {
	if s.logger == nil {
		return slog.Default()
	}
	return s.logger
}

type clientSettings struct {
	settings
	budget       *budget.Budget
	policy       Policies
	config       serviceConfig
	callBuffer   int
	clientBuffer int
	fixedReserve time.Duration
	attemptKind  trace.SpanKind
	hasReserve   bool
	strict       bool
	errs         []error
}

type serverSettings struct {
	settings
	edge          []func(*peer.Peer) bool // any of which tells a caller that is outside
	limits        Limits
	methodLimits  map[string]Limits // by name
	adaptiveFloor bool
	store         idempotency.Store     // nil if keys are not looked at
	keyed         *idempotency.Settings // of the store
	errs          []error
}

type clientOption func(*clientSettings)

func (f clientOption) applyClient(s *clientSettings) { f(s) }

type serverOption func(*serverSettings)

func (f serverOption) applyServer(s *serverSettings) { f(s) }

type option func(*settings) error

func (f option) applyClient(s *clientSettings) { s.errs = append(s.errs, f(&s.settings)) }
func (f option) applyServer(s *serverSettings) { s.errs = append(s.errs, f(&s.settings)) }

// WithMode sets whether decisions are carried out or only observed. The default
// is [Enforce]. [Client.SetMode] and [Server.SetMode] change it later.
func WithMode(mode Mode) Option {
	return option(func(s *settings) error {
		s.firstMode = mode
		if err := mode.validate(); err != nil {
			return fmt.Errorf("WithMode: %w", err)
		}
		return nil
	})
}

// WithTracerProvider makes spans with the provider's tracer. Without it, or
// with nil, there are no spans, and nothing is spent on them. For OpenTelemetry's
// global provider pass otel.GetTracerProvider().
func WithTracerProvider(provider trace.TracerProvider) Option {
	return option(func(s *settings) error {
		s.tracers = provider
		return nil
	})
}

// WithAttemptSpans sets the kind of the spans of attempts. Without it, they are
// CLIENT spans but on connections with a stats handler of otelgrpc or of grpc-go's
// stats/opentelemetry, which makes a CLIENT span itself below each attempt: there
// they are INTERNAL. Set [trace.SpanKindInternal] where a stats handler of another
// kind does so, and [trace.SpanKindClient] where such a handler makes none, because
// it has no tracer provider.
func WithAttemptSpans(kind trace.SpanKind) ClientOption {
	return clientOption(func(s *clientSettings) {
		if kind != trace.SpanKindInternal && kind != trace.SpanKindClient {
			s.errs = append(s.errs, fmt.Errorf("WithAttemptSpans(%v): must be internal or client", kind))
		}
		s.attemptKind = kind
	})
}

// WithMeterProvider counts with the provider's meter. Without it, or with nil,
// nothing is counted, and nothing is spent on it.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return option(func(s *settings) error {
		s.meters = provider
		return nil
	})
}

// WithPropagators sets how the trace travels with a call, if there is a tracer
// provider. The default is W3C Trace Context and Baggage.
func WithPropagators(propagators propagation.TextMapPropagator) Option {
	return option(func(s *settings) error {
		if propagators == nil {
			return errors.New("WithPropagators: nil")
		}
		s.propagators = propagators
		return nil
	})
}

// WithLogger sets the logger for what no single call shows: failures of the idempotency store
// with their cause, lost leases, the warning of [Server.Check], interceptors that are installed
// twice, and retries by another interceptor. Calls are not logged. The default is
// [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return option(func(s *settings) error {
		if logger == nil {
			return errors.New("WithLogger: nil")
		}
		s.logger = logger
		return nil
	})
}

// WithBudget sets the retry budget. Its settings apply to each request whose first
// call is made by this client, and its buckets pay for the extra attempts that this
// client sends to each target. The default is [budget.New] for this client alone.
//
// Clients may share one. Their connections to one target then draw on one bucket,
// rather than on one for each client.
//
// If a process has several, give each a name, by [budget.Name]: metrics tell them
// apart by that alone.
func WithBudget(b *budget.Budget) ClientOption {
	return clientOption(func(s *clientSettings) {
		if b == nil {
			s.errs = append(s.errs, errors.New("WithBudget: nil"))
			return
		}
		s.budget = b
		s.errs = append(s.errs, b.Err())
	})
}

// WithPolicy sets how the calls of each method are made. The default is the
// zero [Policy] for all. Each field of a policy that is zero is left to the next
// of these sources, where Retry and Hedge count as one field:
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
		s.policy = policies
		if m, ok := policies.(MethodPolicies); ok {
			s.policy = maps.Clone(m)
			s.errs = append(s.errs, m.validate())
		}
	})
}

// WithServiceConfig sets how calls are made by a service config of gRPC in JSON:
// the names, timeout, waitForReady, retryPolicy and hedgingPolicy of its
// methodConfig, and its retryThrottling, all as gRFC A6 has them. [NewClient]
// returns all that is wrong with it, each by its path in the JSON. Fields that
// A6 does not know are left alone.
//
// The connection's own service config, of its resolver or of
// [grpc.WithDefaultServiceConfig], is a source of policies as well, after this one:
// its retryPolicy, timeout and waitForReady hold without this option. gRPC has it
// read, and takes balancing and message sizes from it; its hedgingPolicy and
// retryThrottling must be given here.
func WithServiceConfig(json string) ClientOption {
	return clientOption(func(s *clientSettings) {
		config, err := parseServiceConfig(json)
		s.config = config
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("WithServiceConfig: %w", err))
		}
	})
}

// WithStreamBuffer bounds what is kept of streams of requests so that they can
// be sent again, in bytes: of one call, and of all calls of the client. A stream
// that sends more goes on, but is not repeated any more. The defaults are 256 KiB
// and 16 MiB, as in gRPC. Zero keeps nothing. The call option
// [grpc.MaxRetryRPCBufferSize] overrides the limit of a call.
func WithStreamBuffer(call, client int) ClientOption {
	return clientOption(func(s *clientSettings) {
		if call < 0 || client < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithStreamBuffer(%d, %d): less than nothing", call, client))
		}
		s.callBuffer, s.clientBuffer = call, client
	})
}

// WithReserve keeps d in reserve for replies to come back: callees are told a
// deadline earlier by that much, though at most by a fifth of what remains.
// The default is to learn it from the round trips of each target.
func WithReserve(d time.Duration) ClientOption {
	return clientOption(func(s *clientSettings) {
		if d < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithReserve(%v): less than nothing", d))
		}
		s.fixedReserve, s.hasReserve = d, true
	})
}

// WithStrictSafety repeats a call that a server may have seen only if its
// method is declared idempotent or its idempotency key makes it safe to retry, and does not
// take a written [RetryPolicy] for such a declaration.
func WithStrictSafety() ClientOption {
	return clientOption(func(s *clientSettings) { s.strict = true })
}

// AtEdge makes a server trust its callers with nothing but an idempotency key:
// the deadline, stamps and tokens that they send are ignored, and each request
// is a root. gRPC's own timeout still counts. Use it where callers are not
// yours.
//
// If some callers of a port are yours and others are not, pass functions that tell
// them apart by their peer, such as by its certificate: a caller is outside if any
// of them returns true. They are called for each call, with a peer that is not nil,
// and must be safe for concurrent use. Without any, all callers are outside.
func AtEdge(outside ...func(*peer.Peer) bool) ServerOption {
	return serverOption(func(s *serverSettings) {
		for i, f := range outside {
			if f == nil {
				s.errs = append(s.errs, fmt.Errorf("AtEdge: function %d is nil", i+1))
			}
		}
		if len(outside) == 0 {
			outside = append(outside, func(*peer.Peer) bool { return true })
		}
		s.edge = append(s.edge, outside...)
	})
}

// isOutside reports whether the caller of ctx is one that the server does not trust.
func (s *serverSettings) isOutside(ctx context.Context) bool {
	if len(s.edge) == 0 {
		return false
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		p = &peer.Peer{}
	}
	return slices.ContainsFunc(s.edge, func(outside func(*peer.Peer) bool) bool { return outside(p) })
}

// WithIdempotency runs unary calls that carry an idempotency key once: the
// outcome is kept in the store, and whoever repeats the call gets it. Calls of
// methods that are declared to have no side effects are run as they come, and so
// are streams and, unless [idempotency.RequireKey] or the method's proto file
// says otherwise, calls without a key.
//
// Who repeats a call with its key is answered without its handler, and without the
// interceptors after Hopbound's. Let those that check who the caller is come before
// it, and see [idempotency.Tenant] for whose key is whose. In a handler under a key,
// [grpc.SetSendCompressor] does not work.
//
// Share one store among all servers that serve the same methods. Check that the
// services are such that their outcomes can be kept with [Server.Check].
func WithIdempotency(store idempotency.Store, opts ...idempotency.Option) ServerOption {
	return serverOption(func(s *serverSettings) {
		if isNil(store) {
			s.errs = append(s.errs, errors.New("WithIdempotency: the store is nil"))
			return
		}
		if s.store != nil {
			s.errs = append(s.errs, errors.New("WithIdempotency: given twice"))
		}
		if checked, ok := store.(interface{ Err() error }); ok && checked.Err() != nil {
			s.errs = append(s.errs, fmt.Errorf("WithIdempotency: %w", checked.Err()))
		}
		keyed, err := idempotency.NewSettings(opts...)
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("WithIdempotency: %w", err))
		}
		s.store, s.keyed = store, keyed
	})
}

// WithMaxDeadline bounds the time that any request may take, whatever its
// caller asks for. The default is no bound.
func WithMaxDeadline(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d <= 0 {
			s.errs = append(s.errs, fmt.Errorf("WithMaxDeadline(%v): must be more than nothing", d))
		}
		s.limits.MaxDeadline = d
	})
}

// WithDefaultDeadline bounds the time of requests that come without a
// deadline. The default is no bound.
func WithDefaultDeadline(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d <= 0 {
			s.errs = append(s.errs, fmt.Errorf("WithDefaultDeadline(%v): must be more than nothing", d))
		}
		s.limits.DefaultDeadline = d
	})
}

// WithFloor refuses requests that have less than d left when they arrive,
// because they cannot finish. The default refuses only those that have expired.
func WithFloor(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithFloor(%v): less than nothing", d))
		}
		s.limits.Floor = d
	})
}

// WithStreamIdleLimit ends streams on which no message has gone either way for
// d: the client gets DEADLINE_EXCEEDED at once, the handler's context ends, and its
// pending RecvMsg or SendMsg returns that error. The default is no limit. Choose d longer
// than a handler works between two messages.
func WithStreamIdleLimit(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d <= 0 {
			s.errs = append(s.errs, fmt.Errorf("WithStreamIdleLimit(%v): must be more than nothing", d))
		}
		s.limits.StreamIdle = d
	})
}

// WithStreamSendTimeout ends streams whose client has not made room for a message
// within d, because it does not read. They end as by [WithStreamIdleLimit], but under
// net/http ([grpc.Server.ServeHTTP]), where a pending SendMsg ends only when the client
// reads or goes. The default is no limit.
func WithStreamSendTimeout(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d <= 0 {
			s.errs = append(s.errs, fmt.Errorf("WithStreamSendTimeout(%v): must be more than nothing", d))
		}
		s.limits.StreamSendTimeout = d
	})
}

// WithAdaptiveFloor refuses requests that have less left when they arrive than
// their method's handler took at least in the last minute, though at most a
// fifth of the method's requests.
func WithAdaptiveFloor() ServerOption {
	return serverOption(func(s *serverSettings) { s.adaptiveFloor = true })
}
