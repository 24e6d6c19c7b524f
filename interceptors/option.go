package interceptors

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"

	"github.com/hopbound/hopbound/internal/telemetry"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
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

// shared are the settings that clients and servers have in common.
type shared struct {
	mode      Mode
	telemetry telemetry.Settings
}

type option func(*shared) error

func (f option) applyClient(s *clientSettings) { s.errs = append(s.errs, f(&s.shared)) }
func (f option) applyServer(s *serverSettings) { s.errs = append(s.errs, f(&s.shared)) }

// WithMode sets whether decisions are carried out or only observed. The default is [Enforce].
// [Client.SetMode] and [Server.SetMode] change the mode later.
func WithMode(mode Mode) Option {
	return option(func(s *shared) error {
		s.mode = mode
		if err := mode.validate(); err != nil {
			return fmt.Errorf("WithMode: %w", err)
		}
		return nil
	})
}

// WithTracerProvider makes spans with the provider's tracer. Without this option, or with nil, there
// are no spans, and tracing costs nothing. For OpenTelemetry's global provider, pass
// otel.GetTracerProvider().
func WithTracerProvider(provider trace.TracerProvider) Option {
	return option(func(s *shared) error {
		s.telemetry.Tracers = provider
		return nil
	})
}

// WithMeterProvider records metrics with the provider's meter. Without this option, or with nil, there
// are no metrics, and they cost nothing.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return option(func(s *shared) error {
		s.telemetry.Meters = provider
		return nil
	})
}

// WithPropagators sets how the trace context is written to and read from the metadata of calls. It has
// an effect only with a tracer provider. The default is W3C Trace Context and Baggage.
func WithPropagators(propagators propagation.TextMapPropagator) Option {
	return option(func(s *shared) error {
		if propagators == nil {
			return errors.New("WithPropagators: nil")
		}
		s.telemetry.Propagators = propagators
		return nil
	})
}

// WithLogger sets the logger for events that callers cannot see: failures of the idempotency store with
// their cause, lost leases, malformed values that were ignored, rejected calls, the warning of
// [Server.Check], interceptors that are installed twice, retries by another interceptor, and stats handlers
// that start traces of their own. All are logged at level warn. Of each kind of event that may happen in
// any call, at most one per second is logged, with the number of suppressed ones; the other kinds are logged
// once. The default is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return option(func(s *shared) error {
		if logger == nil {
			return errors.New("WithLogger: nil")
		}
		s.telemetry.Logger = logger
		return nil
	})
}

// isNil reports whether v is nil, or an interface that holds a nil pointer.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	value := reflect.ValueOf(v)
	return value.Kind() == reflect.Pointer && value.IsNil()
}

// nilOption is the error of an option that is nil. Options are counted from 1.
func nilOption(i int) error { return fmt.Errorf("option %d is nil", i+1) }
