package telemetry

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/internal/hoperr"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

// Client records the outgoing calls of a client. It is safe for concurrent use.
type Client struct {
	settings    *Settings
	trace       *tracing        // nil if there is no tracer provider
	count       *clientCounters // nil if there is no meter provider
	attemptKind trace.SpanKind  // unspecified if it depends on the connection
	folds       bool            // attempts have no spans of their own
	connections connections

	installedTwice logOnce
	otherRetries   logOnce
	grpcRetries    logOnce
	rejections     logLimit
	ignored        logLimit
}

// NewClient returns what records the calls of a client. The argument attemptKind is the kind of the
// spans of attempts; if it is unspecified, it depends on the connection. If fold is set, attempts have
// no spans of their own, and a stats handler's span has their attributes.
func NewClient(s *Settings, attemptKind trace.SpanKind, fold bool) (*Client, error) {
	c := &Client{settings: s, trace: newTracing(s), attemptKind: attemptKind, folds: fold}
	var err error
	c.count, err = newClientCounters(s)
	return c, err
}

// Reserved returns the keys of the metadata that carries the trace, in lower case.
func (c *Client) Reserved() []string {
	if c.trace == nil {
		return nil
	}
	var keys []string
	for _, field := range c.trace.propagators.Fields() {
		keys = append(keys, strings.ToLower(field))
	}
	return keys
}

// NewMethod returns a method by its name, "service/method". If known is false, metrics do not
// name it.
func (c *Client) NewMethod(name string, known bool) *Method { return newMethod(c.trace, name, known) }

// Call is one outgoing call. The zero value is one of no client.
type Call struct {
	client   *Client
	ctx      context.Context //nolint:containedctx // of the call, in which metrics are recorded
	method   *Method
	target   *Target
	observed bool
	root     bool       // it belongs to no request
	span     trace.Span // nil if it is not recorded

	conn     *atomic.Pointer[handlers] // of the connection; nil if nothing is recorded
	handlers *handlers                 // as they were known when the call started; nil if they were not
}

// Start starts the record of a call, and returns the context of its span.
func (c *Client) Start(ctx context.Context, call *Call, m *Method, t *Target, cc *grpc.ClientConn, observed bool) context.Context {
	*call = Call{client: c, method: m, target: t, observed: observed}
	if c.trace != nil {
		var span trace.Span
		ctx, span = c.trace.tracer.Start(ctx, m.spans.callName, m.spans.call...)
		if span.IsRecording() {
			call.span = span
		}
	}
	if c.trace != nil || c.count != nil {
		if call.conn = c.connections.of(cc); call.conn != nil {
			call.handlers = call.conn.Load()
		}
	}
	call.ctx = ctx
	return ctx
}

// Paused records why no attempt runs for a while, after one has failed with err.
func (c *Call) Paused(d time.Duration, pushback bool, err error) {
	if c.span == nil {
		return
	}
	reason := "backoff"
	if pushback {
		reason = "pushback"
	}
	c.event("hopbound.backoff", attrBackoff.Float64(Millis(d)), attrReason.String(reason),
		semconv.RPCResponseStatusCode(codeName(hoperr.Code(err))))
}

// Hedged records that a hedge was started after a delay, as the call's nth attempt.
func (c *Call) Hedged(delay time.Duration, n int) {
	if c.span != nil {
		c.event("hopbound.hedge", attrBackoff.Float64(Millis(delay)), AttrAttempt.Int(n))
	}
}

// Rejected records that the client rejected the call, or would have.
func (c *Call) Rejected(reason string) {
	if n := c.client.count; n != nil {
		n.rejected(c.ctx, c.method, c.observed, reason)
	}
	if c.span != nil {
		c.event("hopbound.refusal", attrReason.String(reason))
	}
	if !c.observed && c.client.rejections.ready() {
		c.client.rejections.warn(c.ctx, c.client.settings.Log(), "a call was rejected", "side", sideClient, "method", "/"+c.method.Name, "reason", reason)
	}
}

// Malformed records a value of the metadata that was malformed and ignored.
func (c *Call) Malformed(key string) {
	if n := c.client.count; n != nil {
		n.malformed(c.ctx, c.method, key)
	}
	if c.span != nil {
		c.event("hopbound.malformed", attrHeader.String(key))
	}
	if c.client.ignored.ready() {
		c.client.ignored.warn(c.ctx, c.client.settings.Log(), "a malformed value was ignored", "side", sideClient, "method", "/"+c.method.Name, "header", key)
	}
}

// Overreported counts a reply that reports more tokens as used than were lent.
func (c *Call) Overreported() {
	if n := c.client.count; n != nil {
		n.over.Add(c.ctx, 1, n.own.over.by(true, attrGRPCTarget, c.target.label).add...)
	}
}

// OtherRetries records that another interceptor retries the call.
func (c *Call) OtherRetries() {
	if c.span != nil {
		c.span.SetAttributes(attrOtherRetries.Bool(true))
	}
	if n := c.client.count; n != nil {
		n.others.Add(c.ctx, 1, c.byMethod(c.pair()).add...)
	}
	c.client.otherRetries.warn(c.ctx, c.client.settings.Log(),
		"another client interceptor retries this method, and Hopbound does not retry these calls; remove the other interceptor",
		"side", sideClient, "method", "/"+c.method.Name)
}

// GRPCRetries warns that gRPC itself retries the calls of a method.
func (c *Client) GRPCRetries(ctx context.Context, m *Method) {
	c.grpcRetries.warn(ctx, c.settings.Log(), "gRPC retries this method by the connection's service config, because the connection was "+
		"dialled while the client observed; Hopbound does not retry or hedge these calls; dial again, or restart the process",
		"side", sideClient, "method", "/"+m.Name)
}

// InstalledTwice records that an attempt of the call outer, perhaps of another client, has come to this
// client's interceptors.
func (c *Client) InstalledTwice(ctx context.Context, outer *Call) {
	if outer.span != nil {
		outer.span.SetAttributes(attrInstalledTwice.Bool(true))
	}
	if c.count != nil {
		c.count.countTwice(ctx, outer.method)
	}
	c.installedTwice.warn(ctx, c.settings.Log(), installedTwice, "side", sideClient, "method", "/"+outer.method.Name)
}

const installedTwice = "the interceptors are installed twice, and the inner ones pass calls through"

// CallEnd is what is known of a call when it ends.
type CallEnd struct {
	Err      error
	Attempts int
	Decision Decision
	Reason   string // empty if the decision says enough
	KeyHash  string // empty if there is no key
	Hedged   bool
	Paused   time.Duration // during which no attempt was under way
	Took     time.Duration
}

// End counts the call, and ends its span.
func (c *Call) End(e *CallEnd) {
	if c.client.count != nil {
		c.countEnd(e)
	}
	if c.span == nil {
		return
	}
	c.span.SetAttributes(attrAttempts.Int(e.Attempts), attrDecision.String(string(e.Decision)))
	if e.Reason != "" {
		c.span.SetAttributes(attrReason.String(e.Reason))
	}
	if e.KeyHash != "" {
		c.span.SetAttributes(AttrKeyHash.String(e.KeyHash))
	}
	endSpan(c.span, e.Err, c.observed, isFailure)
}

func (c *Call) event(name string, attrs ...attribute.KeyValue) {
	c.span.AddEvent(name, trace.WithAttributes(attrs...))
}

// Recorded reports whether the call has a span, so that details are worth gathering.
func (c *Call) Recorded() bool { return c.span != nil }
