package interceptors

import (
	"context"
	"slices"
	"time"

	"github.com/hopbound/hopbound/internal/wire"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// startServer starts the span of an incoming call, as a child of the caller's
// attempt. If there is one already that this process made for the call, such
// as otelgrpc's, it serves.
func (in *incoming) startServer(ctx context.Context, h wire.Context) context.Context {
	if in.trace == nil {
		return ctx
	}
	if span := trace.SpanFromContext(ctx); !span.SpanContext().IsValid() || span.SpanContext().IsRemote() {
		ctx = in.startSpan(ctx)
	} else if span.IsRecording() {
		in.span = span
	}
	if in.span != nil {
		if h.Attempt > 0 {
			in.span.SetAttributes(attrAttempt.Int(h.Attempt))
		}
		if h.HasBudget {
			in.span.SetAttributes(attrLeased.Int(h.Budget))
		}
	}
	return ctx
}

// startSpan starts a span as a child of what the caller's metadata names.
func (in *incoming) startSpan(ctx context.Context) context.Context {
	remote := in.trace.propagators.Extract(ctx, arriving{ctx})
	opts := in.method.spans.server
	if in.outside { // the caller's trace is not ours to be part of
		opts = append(slices.Clip(in.method.spans.edge), trace.WithLinks(trace.LinkFromContext(remote)))
	} else {
		ctx = remote
	}
	ctx, span := in.trace.tracer.Start(ctx, in.method.name, opts...)
	if span.IsRecording() {
		in.span, in.owned = span, true
	}
	return ctx
}

func (in *incoming) traceArrival(remaining, excess time.Duration) {
	if in.span == nil {
		return
	}
	if remaining != unbounded {
		in.span.SetAttributes(attrRemaining.Float64(millis(remaining)))
	}
	in.span.SetAttributes(attrExcess.Float64(millis(excess)))
}

// refused counts and shows a refusal, or what would be one.
func (in *incoming) refused(ctx context.Context, reason string) {
	if in.count != nil {
		in.count.refusal(ctx, in.method, in.mode, reason)
	}
	if in.span != nil {
		in.span.AddEvent("hopbound.refusal", trace.WithAttributes(attrReason.String(reason)))
		if in.mode == Observe {
			in.span.SetAttributes(attrMode.String(in.mode.String()))
		}
	}
}

// malformed counts and shows a value from the wire that was ignored.
func (in *incoming) malformed(ctx context.Context, key string) {
	if in.count != nil {
		in.count.malformed(ctx, in.method, key)
	}
	if in.span != nil {
		in.span.AddEvent("hopbound.malformed", trace.WithAttributes(attrHeader.String(key)))
	}
}

// tell says in trace and metrics what became of a call with a key.
func (c *claim) tell() {
	if c.became == "" { // something has panicked before it came to that
		c.became = keyGivenUp
	}
	c.count.keyedCall(&c.request, c.method, c.mode, c.became)
	if c.span == nil {
		return
	}
	c.span.SetAttributes(attrKeyHash.String(c.key.Hash()), attrKeyOutcome.String(c.became))
	if c.takenOver {
		c.span.SetAttributes(attrTakenOver.Bool(true))
	}
}

// traceWait says that from now on the call waits for another.
func (c *claim) traceWait() {
	if c.span != nil {
		c.span.AddEvent("hopbound.idempotency.wait")
	}
}

// traceStoreError shows an error of the store, which the caller is not told.
func (c *claim) traceStoreError(err error) {
	if c.span != nil {
		c.span.AddEvent("hopbound.idempotency.store_error", trace.WithAttributes(semconv.ExceptionMessage(err.Error())))
	}
}

func (in *incoming) endServer(err error, used int) {
	if in.span == nil {
		return
	}
	in.span.SetAttributes(attrUsed.Int(used))
	if in.owned {
		endSpan(in.span, err, in.mode, isServerFault)
	}
}
