package interceptors

import (
	"context"
	"strings"
	"time"

	"github.com/hopbound/hopbound/internal/wire"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// scope names the tracer and the meter.
const scope = "github.com/hopbound/hopbound/interceptors"

// Attributes of spans and events, beside those of the semantic conventions.
const (
	attrAttempt   = attribute.Key("hopbound.attempt")
	attrAttempts  = attribute.Key("hopbound.attempts")
	attrDecision  = attribute.Key("hopbound.decision")
	attrMode      = attribute.Key("hopbound.mode") // only if it is observe
	attrLeased    = attribute.Key("hopbound.budget.leased")
	attrUsed      = attribute.Key("hopbound.budget.used")
	attrRemaining = attribute.Key("hopbound.deadline.remaining_ms")
	attrExcess    = attribute.Key("hopbound.deadline.excess_ms")
	attrReserve   = attribute.Key("hopbound.deadline.reserve_ms")
	attrBackoff   = attribute.Key("hopbound.backoff_ms")
	attrReason    = attribute.Key("hopbound.reason")
	attrHedge     = attribute.Key("hopbound.hedge") // won or lost, where attempts were made at the same time
	attrSent      = attribute.Key("hopbound.messages.sent")
	attrReceived  = attribute.Key("hopbound.messages.received")
	attrCommitted = attribute.Key("hopbound.committed") // what made a stream unretryable
	attrHeader    = attribute.Key("hopbound.header")

	attrKeyOutcome = attribute.Key("hopbound.idempotency.outcome")
	attrKeyHash    = attribute.Key("hopbound.idempotency.key_hash")
	attrTakenOver  = attribute.Key("hopbound.idempotency.taken_over") // only if it is so
	attrStore      = attribute.Key("hopbound.idempotency.store")
	attrStep       = attribute.Key("hopbound.idempotency.step")
	attrResult     = attribute.Key("hopbound.idempotency.result")
)

// tracing is what spans are made with. It is nil, and nothing is spent, if
// there is no tracer provider.
type tracing struct {
	tracer      trace.Tracer
	propagators propagation.TextMapPropagator
}

func newTracing(s *settings) *tracing {
	if s.tracers == nil {
		return nil
	}
	t := &tracing{
		tracer:      s.tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
		propagators: s.propagators,
	}
	if t.propagators == nil {
		t.propagators = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	}
	return t
}

// startCall starts the span of a call, below which each attempt has one.
func (k *call) startCall(ctx context.Context) context.Context {
	if k.trace == nil {
		return ctx
	}
	ctx, span := k.trace.tracer.Start(ctx, "hopbound.call "+k.method.name, trace.WithTimestamp(k.began))
	if span.IsRecording() {
		k.span = span
		span.SetAttributes(semconv.RPCSystemNameGRPC, semconv.RPCMethod(k.method.name))
	}
	return ctx
}

// startAttempt starts the span of an attempt, and puts its context among what
// is sent. A call that is not recorded has none, but its context is sent too.
func (k *call) startAttempt(ctx context.Context, a *attempt) context.Context {
	if k.trace == nil {
		return ctx
	}
	if k.span != nil {
		ctx, a.span = k.trace.tracer.Start(ctx, k.method.name, //nolint:spancheck // endAttempt ends it
			trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(a.began))
		a.span.SetAttributes(
			semconv.RPCSystemNameGRPC, semconv.RPCMethod(k.method.name),
			attrAttempt.Int(a.n), attrLeased.Int(a.lease.Tokens()),
		)
		if d, ok := ctx.Deadline(); ok {
			a.span.SetAttributes(attrRemaining.Float64(millis(d.Sub(a.began))), attrReserve.Float64(millis(a.reserve)))
		}
	}
	md := carrier{}
	k.trace.propagators.Inject(ctx, md)
	if len(md) > 0 {
		kv := make([]string, 0, 2*len(md))
		for key, values := range md {
			for _, v := range values {
				kv = append(kv, key, v)
			}
		}
		ctx = metadata.AppendToOutgoingContext(ctx, kv...)
	}
	return ctx
}

// endAttempt ends an attempt's span with what was decided on it, and counts it.
func (k *call) endAttempt(a *attempt, err error, d decision) {
	k.count.attempt(k.ctx, k.method, d, k.mode)
	if a.span == nil {
		return
	}
	a.span.SetAttributes(attrDecision.String(string(d)), attrUsed.Int(a.charged))
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
	if k.last.span != nil { // the invoker panicked
		k.last.ended = time.Now()
		k.decision = notRetryable
		k.endAttempt(&k.last, err, k.decision)
	}
	if k.span == nil {
		return
	}
	k.span.SetAttributes(attrAttempts.Int(k.attempts), attrDecision.String(string(k.decision)))
	if k.hasKey {
		k.span.SetAttributes(attrKeyHash.String(k.key.Hash()))
	}
	endSpan(k.span, err, k.mode, isFailure)
}

// event adds an event to the span of the call.
func (k *call) event(name string, attrs ...attribute.KeyValue) {
	if k.span != nil {
		k.span.AddEvent(name, trace.WithAttributes(attrs...))
	}
}

// malformed counts and shows a value from the wire that was ignored.
func (k *call) malformed(key string) {
	k.count.malformed(k.ctx, k.method, key)
	if k.span != nil {
		k.event("hopbound.malformed", attrHeader.String(key))
	}
}

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
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(in.arrived)}
	md, _ := metadata.FromIncomingContext(ctx)
	remote := in.trace.propagators.Extract(ctx, carrier(md))
	if in.edge { // the caller's trace is not ours to be part of
		opts = append(opts, trace.WithNewRoot(), trace.WithLinks(trace.LinkFromContext(remote)))
	} else {
		ctx = remote
	}
	ctx, span := in.trace.tracer.Start(ctx, in.method.name, opts...)
	if span.IsRecording() {
		in.span, in.owned = span, true
		span.SetAttributes(semconv.RPCSystemNameGRPC, semconv.RPCMethod(in.method.name))
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

func (in *incoming) traceRefusal(reason string) {
	if in.span != nil {
		in.span.AddEvent("hopbound.refusal", trace.WithAttributes(attrReason.String(reason)))
		if in.mode == Observe {
			in.span.SetAttributes(attrMode.String(in.mode.String()))
		}
	}
}

// malformed counts and shows a value from the wire that was ignored.
func (in *incoming) malformed(ctx context.Context, key string) {
	in.count.malformed(ctx, in.method, key)
	if in.span != nil {
		in.span.AddEvent("hopbound.malformed", trace.WithAttributes(attrHeader.String(key)))
	}
}

// tell says in trace and metrics what became of a call with a key.
func (c *claim) tell() {
	c.count.keyedCall(&c.request, c.method, c.became)
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

// endSpan ends a span with the status of its call.
func endSpan(span trace.Span, err error, mode Mode, failed func(codes.Code) bool, opts ...trace.SpanEndOption) {
	code := codes.OK
	if err != nil {
		code = codeOf(err)
	}
	span.SetAttributes(semconv.RPCResponseStatusCode(codeName(code)))
	if mode == Observe {
		span.SetAttributes(attrMode.String(mode.String()))
	}
	if failed(code) {
		span.SetStatus(otelcodes.Error, status.Convert(err).Message())
	}
	span.End(opts...)
}

// isFailure reports whether a code is a failure to a client: all but OK.
func isFailure(code codes.Code) bool { return code != codes.OK }

// isServerFault reports whether a code is a failure of the server's own, by the
// semantic conventions for gRPC.
func isServerFault(code codes.Code) bool {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	default:
		return false
	}
}

// codeName returns a code as the protocol writes it, such as "NOT_FOUND".
func codeName(code codes.Code) string {
	names := [...]string{
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
		"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
		"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
	}
	if int(code) < len(names) {
		return names[code]
	}
	return code.String()
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// carrier lets a propagator read and write gRPC metadata.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if values := metadata.MD(c).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Values returns all values of a key, of which baggage may have several.
func (c carrier) Values(key string) []string { return metadata.MD(c).Get(key) }

func (c carrier) Set(key, value string) { c[strings.ToLower(key)] = []string{value} }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
