package interceptors

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
)

// startCall starts the span of a call, below which each attempt has one.
func (k *call) startCall(ctx context.Context) context.Context {
	if k.trace == nil {
		return ctx
	}
	ctx, span := k.trace.tracer.Start(ctx, k.method.spans.callName, k.method.spans.call...)
	if span.IsRecording() {
		k.span = span
	}
	k.maker = k.trace.spanMaker(k.conn)
	return ctx
}

// startAttempt starts the span of an attempt, if the call is recorded.
func (k *call) startAttempt(ctx context.Context, a *attempt) context.Context {
	if k.span == nil {
		return ctx
	}
	opts := k.method.spans.internal
	if k.trace.clientSpan(k.maker) {
		opts = k.method.spans.client
	}
	ctx, a.span = k.trace.tracer.Start(ctx, k.method.name, opts...) //nolint:spancheck // endAttempt ends it
	a.span.SetAttributes(attrAttempt.Int(a.n))
	if k.mode == Enforce { // else it carries none
		a.span.SetAttributes(attrLeased.Int(a.loan.Tokens()))
	}
	if d, ok := ctx.Deadline(); ok {
		a.span.SetAttributes(attrRemaining.Float64(millis(d.Sub(a.began))), attrReserve.Float64(millis(a.reserve)))
	}
	return ctx
}

// endAttempt ends an attempt's span with what was decided on it, and counts it.
func (k *call) endAttempt(a *attempt, err error, d decision) {
	if k.count != nil {
		k.count.attempt(&a.self, k.series(), d)
	}
	if a.span == nil {
		return
	}
	a.span.SetAttributes(attrDecision.String(string(d)), attrUsed.Int(a.loan.Used()))
	if k.reason != "" && d != outrun {
		a.span.SetAttributes(attrReason.String(k.reason))
	}
	failed := isFailure
	if a.hedge != "" {
		a.span.SetAttributes(attrHedge.String(a.hedge))
		if a.hedge == hedgeLost { // it was cancelled because it was not needed any more
			failed = func(codes.Code) bool { return false }
		}
	}
	endSpan(a.span, err, k.mode, failed, trace.WithTimestamp(a.ended))
	a.span = nil
}

// endPanicked ends an attempt below which something has panicked. What it held may
// have been used.
func (k *call) endPanicked(a *attempt) {
	k.settle(a, errPanicked)
	k.decision, k.reason = notRetryable, becausePanicked
	k.endAttempt(a, errPanicked, k.decision)
}

// tracePause says on the call's span why no attempt runs for a while.
func (k *call) tracePause(a *attempt, last error) {
	if k.span != nil {
		reason := "backoff"
		if p := parsePushback(a.reply()); p.said && !p.stop {
			reason = "pushback"
		}
		k.event("hopbound.backoff", attrBackoff.Float64(millis(k.paused)), attrReason.String(reason),
			semconv.RPCResponseStatusCode(codeName(codeOf(last))))
	}
}

// endCall ends the span of the call.
func (k *call) endCall(err error) {
	if k.count != nil {
		k.count.call(k.ctx, k.series(), codeOf(err), k.attempts-1, k.policy.Hedge != nil, k.idle)
	}
	if k.span == nil {
		return
	}
	k.span.SetAttributes(attrAttempts.Int(k.attempts), attrDecision.String(string(k.decision)))
	if k.reason != "" {
		k.span.SetAttributes(attrReason.String(k.reason))
	}
	if key := k.sentKey(); key != "" {
		k.span.SetAttributes(attrKeyHash.String(key.Hash()))
	}
	endSpan(k.span, err, k.mode, isFailure)
}

// event adds an event to the span of the call.
func (k *call) event(name string, attrs ...attribute.KeyValue) {
	if k.span != nil {
		k.span.AddEvent(name, trace.WithAttributes(attrs...))
	}
}

// refused counts and shows a refusal, or what would be one.
func (k *call) refused(reason string) {
	if k.mode == Enforce {
		k.reason = reason
	}
	if k.count != nil {
		k.count.refusal(k.ctx, k.method, k.mode, reason)
	}
	if k.span != nil {
		k.event("hopbound.refusal", attrReason.String(reason))
	}
}

// malformed counts and shows a value from the wire that was ignored.
func (k *call) malformed(key string) {
	if k.count != nil {
		k.count.malformed(k.ctx, k.method, key)
	}
	if k.span != nil {
		k.event("hopbound.malformed", attrHeader.String(key))
	}
}
