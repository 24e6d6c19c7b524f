package interceptors

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/attribute"
)

// attrLeft is how many tokens are left to a request in its handler.
const attrLeft = attribute.Key("hopbound.budget.left")

// LogFields returns what there is to log of the call that ctx belongs to, under
// the names that its span has them under: the attempt's number from 1, the time
// left until the deadline in milliseconds, the tokens, and the hash of the
// idempotency key. In a handler the call is the incoming one, and the tokens are
// those that the request has left; in an interceptor after that of a [Client], it
// is the attempt, and they are those that it carries. What a call does not have is
// left out, and without a call of Hopbound's there is nothing.
//
// Hand it to the interceptor of go-grpc-middleware's logging, which stands after
// Hopbound's:
//
//	logging.UnaryServerInterceptor(logger, logging.WithFieldsFromContext(interceptors.LogFields))
//
// It is safe for concurrent use.
func LogFields(ctx context.Context) logging.Fields {
	attrs := logAttrs(ctx)
	fields := make(logging.Fields, 0, 2*len(attrs))
	for _, a := range attrs {
		fields = append(fields, a.Key, a.Value.Any())
	}
	return fields
}

// NewLogHandler returns a handler that adds to each record what [LogFields] has
// for the context that it is logged with, outside of any group:
//
//	slog.New(interceptors.NewLogHandler(slog.NewJSONHandler(os.Stderr, nil)))
//
// Log with a context, such as by [slog.InfoContext]. A nil handler panics, as it
// does with [slog.New].
func NewLogHandler(next slog.Handler) slog.Handler {
	if next == nil {
		panic("hopbound: NewLogHandler: nil")
	}
	return &logHandler{whole: next, outer: next}
}

// logHandler adds attributes to records. They are to be outside of the groups that
// are open, so that it keeps what it was before the first of these, and what has
// been done since.
type logHandler struct {
	whole slog.Handler // with all that has been done
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

// logAttrs returns what there is to log of the call that ctx belongs to.
func logAttrs(ctx context.Context) []slog.Attr {
	if c, ok := ctx.Value(attemptKey{}).(*attemptContext); ok {
		var tokens []slog.Attr
		if c.call.mode == Enforce { // else it carries none
			tokens = []slog.Attr{slog.Int(string(attrLeased), c.attempt.loan.Tokens())}
		}
		return callAttrs(ctx, c.attempt.n, tokens, c.call.sentKey())
	}
	r := requestFromContext(ctx)
	if r == nil {
		return nil
	}
	var tokens []slog.Attr
	// A root is granted its tokens at its first call.
	if free := r.allotment.Free(); r.hop || free != 0 || r.allotment.Used() != 0 {
		tokens = []slog.Attr{slog.Int(string(attrLeft), free)}
	}
	return callAttrs(ctx, r.attempt, tokens, cmp.Or(r.headerKey(), r.key))
}

// callAttrs returns what there is to log of a call: attempt is 0 and key is empty
// if they are not known.
func callAttrs(ctx context.Context, attempt int, tokens []slog.Attr, key idempotency.Key) []slog.Attr {
	attrs := make([]slog.Attr, 0, 4)
	if attempt > 0 {
		attrs = append(attrs, slog.Int(string(attrAttempt), attempt))
	}
	if d, ok := ctx.Deadline(); ok {
		attrs = append(attrs, slog.Float64(string(attrRemaining), millis(time.Until(d))))
	}
	attrs = append(attrs, tokens...)
	if key != "" {
		attrs = append(attrs, slog.String(string(attrKeyHash), key.Hash()))
	}
	return attrs
}
