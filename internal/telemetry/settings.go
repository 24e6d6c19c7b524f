package telemetry

import (
	"context"
	"log/slog"
	"sync"

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
type logOnce struct{ once sync.Once }

func (l *logOnce) warn(ctx context.Context, log *slog.Logger, message string, args ...any) {
	l.once.Do(func() { log.WarnContext(ctx, "hopbound: "+message, args...) })
}
