package interceptors

import (
	"errors"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/budget"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Mode is whether a [Client] or [Server] does what it decides.
type Mode int

const (
	// Enforce does it. It is the zero value.
	Enforce Mode = iota
	// Observe counts and traces what it would have done, and does nothing: no
	// call is repeated, refused or given another deadline, and no budget is
	// carried. What it needs to observe it still sends: a client the time of
	// sending, and a server, to callers that lease tokens, its report.
	Observe
)

func (m Mode) validate() error {
	if m != Enforce && m != Observe {
		return fmt.Errorf("WithMode(%d): no known mode", int(m))
	}
	return nil
}

// String returns "enforce" or "observe".
func (m Mode) String() string {
	if m == Observe {
		return "observe"
	}
	return "enforce"
}

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
	mode        Mode
	tracers     trace.TracerProvider
	meters      metric.MeterProvider
	propagators propagation.TextMapPropagator
}

type clientSettings struct {
	settings
	budget       *budget.Budget
	policy       Policies
	fixedReserve time.Duration
	hasReserve   bool
	strict       bool
	errs         []error
}

type serverSettings struct {
	settings
	edge            bool
	maxDeadline     time.Duration
	defaultDeadline time.Duration
	floor           time.Duration
	adaptiveFloor   bool
	errs            []error
}

type clientOption func(*clientSettings)

func (f clientOption) applyClient(s *clientSettings) { f(s) }

type serverOption func(*serverSettings)

func (f serverOption) applyServer(s *serverSettings) { f(s) }

type option func(*settings) error

func (f option) applyClient(s *clientSettings) { s.errs = append(s.errs, f(&s.settings)) }
func (f option) applyServer(s *serverSettings) { s.errs = append(s.errs, f(&s.settings)) }

// WithMode sets whether decisions are carried out or only observed. The default
// is [Enforce].
func WithMode(mode Mode) Option {
	return option(func(s *settings) error {
		s.mode = mode
		return mode.validate()
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

// WithBudget sets the purse that pays for extra attempts of the requests that
// begin at this client, or at a server in whose handler it makes the first
// call. Share one among all clients of a process. The default is a purse with
// the defaults of [budget.New] for this client alone.
//
// The purse also sets the pace at which one target may be sent extra attempts,
// whoever pays for them: for each there is another of the same settings.
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
// zero [Policy] for all.
func WithPolicy(policies Policies) ClientOption {
	return clientOption(func(s *clientSettings) {
		if policies == nil {
			s.errs = append(s.errs, errors.New("WithPolicy: nil"))
			return
		}
		s.policy = policies
		if m, ok := policies.(MethodPolicies); ok {
			s.errs = append(s.errs, m.validate())
		}
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
// method is declared idempotent or it carries an idempotency key, and does not
// take a written [RetryPolicy] for such a declaration.
func WithStrictSafety() ClientOption {
	return clientOption(func(s *clientSettings) { s.strict = true })
}

// AtEdge makes a server trust its callers with nothing but an idempotency key:
// the deadline, stamps and tokens that they send are ignored, and each request
// is a root. gRPC's own timeout still counts. Use it where callers are not
// yours.
func AtEdge() ServerOption {
	return serverOption(func(s *serverSettings) { s.edge = true })
}

// WithMaxDeadline bounds the time that any request may take, whatever its
// caller asks for. The default is no bound.
func WithMaxDeadline(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d <= 0 {
			s.errs = append(s.errs, fmt.Errorf("WithMaxDeadline(%v): must be more than nothing", d))
		}
		s.maxDeadline = d
	})
}

// WithDefaultDeadline bounds the time of requests that come without a
// deadline. The default is no bound.
func WithDefaultDeadline(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d <= 0 {
			s.errs = append(s.errs, fmt.Errorf("WithDefaultDeadline(%v): must be more than nothing", d))
		}
		s.defaultDeadline = d
	})
}

// WithFloor refuses requests that have less than d left when they arrive,
// because they cannot finish. The default refuses only those that have expired.
func WithFloor(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) {
		if d < 0 {
			s.errs = append(s.errs, fmt.Errorf("WithFloor(%v): less than nothing", d))
		}
		s.floor = d
	})
}

// WithAdaptiveFloor refuses requests that have less left when they arrive than
// their method's handler took at least in the last minute, though at most a
// fifth of the method's requests.
func WithAdaptiveFloor() ServerOption {
	return serverOption(func(s *serverSettings) { s.adaptiveFloor = true })
}
