package telemetry

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Settings say where to record. The zero value records in logs alone.
type Settings struct {
	Tracers     trace.TracerProvider // nil makes no spans
	Meters      metric.MeterProvider // nil counts nothing
	Propagators propagation.TextMapPropagator
	Logger      *slog.Logger // nil is slog.Default
}

// Log returns the logger.
func (s *Settings) Log() *slog.Logger {
	if s.Logger == nil {
		return slog.Default()
	}
	return s.Logger
}

// logOnce logs a message the first time only.
type logOnce struct{ done atomic.Bool }

func (l *logOnce) warn(ctx context.Context, log *slog.Logger, message string, args ...any) {
	if !l.done.Swap(true) {
		log.WarnContext(ctx, "hopbound: "+message, args...)
	}
}

// logLimit logs messages of one kind, at most one in a second, because what they report may happen in
// each call.
type logLimit struct {
	last       atomic.Int64 // when a message was last logged, in Unix nanoseconds
	suppressed atomic.Int64
}

// ready reports whether a message may be logged now. If not, it is counted as suppressed.
func (l *logLimit) ready() bool {
	now, last := time.Now().UnixNano(), l.last.Load()
	if now >= last && now-last < int64(time.Second) || !l.last.CompareAndSwap(last, now) {
		l.suppressed.Add(1)
		return false
	}
	return true
}

// warn logs a message for which ready has returned true.
func (l *logLimit) warn(ctx context.Context, log *slog.Logger, message string, args ...any) {
	log.WarnContext(ctx, "hopbound: "+message, append(args, "suppressed", l.suppressed.Swap(0))...)
}
