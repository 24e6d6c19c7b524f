package interceptors

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/outbound"
	"github.com/hopbound/hopbound/internal/request"
	"github.com/hopbound/hopbound/internal/telemetry"
	"go.opentelemetry.io/otel/trace"
)

// LogFields returns the log fields of the call that ctx belongs to. They are trace_id and span_id, if
// there is a span, and these fields, which have the names of the span's attributes: the number of the
// attempt from 1, the time until the deadline in milliseconds, the tokens, and the hash of the
// idempotency key. In a handler, the call is the incoming one, and the tokens are those that the
// request has left. In an interceptor after that of a [Client], the fields are those of the attempt,
// and the tokens are those that it lends to its callee. Fields without a value are left out. Outside
// of a call, there are no fields.
//
// Pass LogFields to the logging interceptor of go-grpc-middleware, which comes after Hopbound's:
//
//	logging.UnaryServerInterceptor(logger, logging.WithFieldsFromContext(interceptors.LogFields))
//
// LogFields is safe for concurrent use.
func LogFields(ctx context.Context) logging.Fields {
	attrs := logAttrs(ctx)
	fields := make(logging.Fields, 0, 2*len(attrs))
	for _, a := range attrs {
		fields = append(fields, a.Key, a.Value.Any())
	}
	return fields
}

// NewLogHandler returns a handler that adds the fields of [LogFields] to each record, outside of all
// groups:
//
//	slog.New(interceptors.NewLogHandler(slog.NewJSONHandler(os.Stderr, nil)))
//
// Log with a context, for example with [slog.InfoContext]. NewLogHandler panics if the handler is nil, as
// [slog.New] does.
func NewLogHandler(next slog.Handler) slog.Handler {
	if next == nil {
		panic("hopbound: NewLogHandler: nil")
	}
	return &logHandler{whole: next, outer: next}
}

// logHandler adds attributes to records, outside of the groups that are open. Therefore it keeps the
// handler as it was before the first group was opened, and the changes since then.
type logHandler struct {
	whole slog.Handler // with everything that has been done
	outer slog.Handler // as it was before the first group was opened
	since []func(slog.Handler) slog.Handler
}

func (h *logHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.whole.Enabled(ctx, level)
}

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	attrs := logAttrs(ctx)
	if len(attrs) == 0 {
		return h.whole.Handle(ctx, r)
	}
	if len(h.since) == 0 {
		r = r.Clone()
		r.AddAttrs(attrs...)
		return h.whole.Handle(ctx, r)
	}
	inner := h.outer.WithAttrs(attrs)
	for _, do := range h.since {
		inner = do(inner)
	}
	return inner.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	do := func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) }
	if len(h.since) == 0 {
		return NewLogHandler(do(h.whole))
	}
	return h.and(do)
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	return h.and(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (h *logHandler) and(do func(slog.Handler) slog.Handler) slog.Handler {
	return &logHandler{whole: do(h.whole), outer: h.outer, since: append(slices.Clip(h.since), do)}
}

// logAttrs returns the attributes of the call that ctx belongs to.
func logAttrs(ctx context.Context) []slog.Attr {
	if a, ok := outbound.AttemptOf(ctx); ok {
		var tokens []slog.Attr
		if !a.Observed { // otherwise it carries none
			tokens = []slog.Attr{slog.Int(string(telemetry.AttrLent), a.Lent)}
		}
		return callAttrs(ctx, a.Number, tokens, a.Key)
	}
	r := request.FromContext(ctx)
	if r == nil {
		return nil
	}
	var tokens []slog.Attr
	// A root gets its tokens when it makes its first call.
	if free := r.Allotment.Free(); r.IsHop || free != 0 || r.Allotment.Used() != 0 {
		tokens = []slog.Attr{slog.Int(string(telemetry.AttrLeft), free)}
	}
	return callAttrs(ctx, r.Attempt, tokens, cmp.Or(r.MetadataKey(), r.Key))
}

// callAttrs returns the attributes of a call. The attempt is 0 and the key empty if they are unknown.
func callAttrs(ctx context.Context, attempt int, tokens []slog.Attr, key idempotency.Key) []slog.Attr {
	attrs := make([]slog.Attr, 0, 6)
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		attrs = append(attrs, slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	if attempt > 0 {
		attrs = append(attrs, slog.Int(string(telemetry.AttrAttempt), attempt))
	}
	if d, ok := ctx.Deadline(); ok {
		attrs = append(attrs, slog.Float64(string(telemetry.AttrRemaining), telemetry.Millis(time.Until(d))))
	}
	attrs = append(attrs, tokens...)
	if key != "" {
		attrs = append(attrs, slog.String(string(telemetry.AttrKeyHash), key.Hash()))
	}
	return attrs
}
