package telemetry

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
)

// Attempt is the record of one attempt. Its fields are what is known when it starts.
type Attempt struct {
	Number  int
	Lent    int // tokens; not recorded for an observed call, which carries none
	Started time.Time
	Reserve time.Duration

	span      trace.Span // nil if there is none, or if it is the watcher's
	watcher   *watcher   // nil if the connection's stats handlers are known, and attempts have spans of their own
	uncounted bool       // it is counted as started when it ends
}

// StartAttempt counts an attempt that starts, and starts its span if the call is recorded. It returns
// the attempt's context, and the metadata that carries its trace: keys, each followed by its value.
//
// A span whose kind depends on the connection's stats handlers starts later if these are unknown, and so
// does that of a folded attempt: when gRPC sends the attempt (see watcher).
func (c *Call) StartAttempt(ctx context.Context, a *Attempt) (_ context.Context, carrier []string) {
	unknown := c.conn != nil && c.handlers == nil
	if c.client.count != nil {
		if a.uncounted = unknown; !unknown && c.exportsGRPC() {
			c.countStart(ctx)
		}
	}
	folds := c.client.folds && (c.handlers == nil || !c.handlers.hidden)
	later := c.span != nil && (folds || unknown && c.client.attemptKind == trace.SpanKindUnspecified)
	if unknown || later {
		a.watcher = &watcher{call: c, attempt: *a, later: later, own: trace.SpanContextFromContext(ctx).SpanID()}
	}
	if later {
		return ctx, nil
	}
	if c.span != nil {
		ctx, a.span = c.startSpan(ctx, a, c.clientSpan(), false)
		if a.watcher != nil {
			a.watcher.own = a.span.SpanContext().SpanID()
		}
	}
	return ctx, c.client.trace.context(ctx, c.handlers != nil && c.handlers.sends)
}

// clientSpan reports whether attempts are CLIENT spans. They are INTERNAL if a stats handler creates a
// CLIENT span below each.
func (c *Call) clientSpan() bool {
	if kind := c.client.attemptKind; kind != trace.SpanKindUnspecified {
		return kind == trace.SpanKindClient
	}
	return c.handlers == nil || !c.handlers.spans
}

// startSpan starts the span of an attempt.
func (c *Call) startSpan(ctx context.Context, a *Attempt, client, late bool) (context.Context, trace.Span) {
	opts := c.method.spans.internal
	if client {
		opts = c.method.spans.client
	}
	if late {
		opts = append(slices.Clip(opts), trace.WithTimestamp(a.Started))
	}
	ctx, span := c.client.trace.tracer.Start(ctx, c.method.Name, opts...) //nolint:spancheck // EndAttempt ends it
	span.SetAttributes(c.attributesOf(ctx, a)...)
	span.SetAttributes(c.target.server...)
	return ctx, span //nolint:spancheck // as above
}

// attributesOf returns the attributes that an attempt has from its start.
func (c *Call) attributesOf(ctx context.Context, a *Attempt) []attribute.KeyValue {
	kvs := append(make([]attribute.KeyValue, 0, 4), AttrAttempt.Int(a.Number))
	if !c.observed {
		kvs = append(kvs, AttrLent.Int(a.Lent))
	}
	if d, ok := ctx.Deadline(); ok {
		kvs = append(kvs, AttrRemaining.Float64(Millis(d.Sub(a.Started))), attrReserve.Float64(Millis(a.Reserve)))
	}
	return kvs
}

// Messages records how many messages of a stream an attempt has sent and received, and what ended the time
// in which the stream could be retried.
func (c *Call) Messages(a *Attempt, sent, received int64, committedBy string) {
	span := a.recorded()
	if span == nil {
		return
	}
	span.SetAttributes(attrSent.Int64(sent), attrReceived.Int64(received))
	if committedBy != "" {
		span.SetAttributes(attrCommitted.String(committedBy))
	}
}

// recorded returns the attempt's own span, or nil.
func (a *Attempt) recorded() trace.Span {
	if a.span != nil || a.watcher == nil {
		return a.span
	}
	a.watcher.mu.Lock()
	defer a.watcher.mu.Unlock()
	return a.watcher.span
}

// AttemptEnd is what is known of an attempt when it ends.
type AttemptEnd struct {
	Err      error
	Decision Decision
	Reason   string   // empty if the decision says enough
	Reached  bool     // a server may have seen it
	Peer     net.Addr // nil if none was picked or it is unknown
	Used     int      // tokens
	Unknown  bool     // how many tokens were used is unknown; all that were lent count as used
	Hedge    string   // HedgeResultWon or HedgeResultLost, or empty if it was alone
	Ended    time.Time
}

// reason returns the reason of the attempt's decision. The Reason of a lost hedge is that of another one.
func (e *AttemptEnd) reason() string {
	if e.Decision == HedgeLost {
		return ""
	}
	return e.Reason
}

// attributes returns the attributes that an attempt has when it has ended.
func (e *AttemptEnd) attributes(a *Attempt) []attribute.KeyValue {
	kvs := append(make([]attribute.KeyValue, 0, 6), attrDecision.String(string(e.Decision)))
	if e.Unknown {
		kvs = append(kvs, attrLost.Int(a.Lent))
	} else {
		kvs = append(kvs, attrUsed.Int(e.Used))
	}
	if reason := e.reason(); reason != "" {
		kvs = append(kvs, attrReason.String(reason))
	}
	if e.Hedge != "" {
		kvs = append(kvs, attrHedge.String(e.Hedge))
	}
	return kvs
}

// EndAttempt counts an attempt that has ended, and ends its span. An attempt without a span of its own,
// because the span of a stats handler has its attributes, is an event of the call.
func (c *Call) EndAttempt(ctx context.Context, a *Attempt, e *AttemptEnd) {
	if c.client.count != nil {
		c.countAttempt(ctx, a, e)
	}
	span, folded := a.span, false
	if a.watcher != nil {
		var later trace.Span
		if later, folded = a.watcher.end(c.ctx, e.Reached); span == nil {
			span = later
		}
	}
	switch {
	case c.span == nil:
		return
	case span == nil && folded:
		c.event("hopbound.attempt", append(e.attributes(a), AttrAttempt.Int(a.Number),
			semconv.RPCResponseStatusCode(codeName(hoperr.Code(e.Err))))...)
		return
	case span == nil: // the tracer has panicked when it was to start
		return
	}
	span.SetAttributes(e.attributes(a)...)
	span.SetAttributes(peerAttributes(e.Peer)...)
	failed := isFailure
	if e.Hedge == HedgeResultLost { // it was cancelled because it was no longer needed
		failed = func(codes.Code) bool { return false }
	}
	endSpan(span, e.Err, c.observed, failed, trace.WithTimestamp(e.Ended))
}
