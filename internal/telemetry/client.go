package telemetry

import (
	"context"
	"strings"
	"time"

	"github.com/hopbound/hopbound/internal/cache"
	"github.com/hopbound/hopbound/internal/hoperr"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// Client records the outgoing calls of a client. It is safe for concurrent use.
type Client struct {
	settings *Settings
	trace    *tracing        // nil if there is no tracer provider
	count    *clientCounters // nil if there is no meter provider

	installedTwice logOnce
	otherRetries   logOnce
}

// NewClient returns what records the calls of a client. The argument attemptKind is the kind of
// the spans of attempts; if it is unspecified, it depends on the connection.
func NewClient(s *Settings, attemptKind trace.SpanKind) (*Client, error) {
	c := &Client{settings: s, trace: newTracing(s)}
	if c.trace != nil {
		c.trace.attemptKind = attemptKind
	}
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

// Target is a target in metrics.
type Target struct {
	label  string
	series [2]cache.Names[clientSeries] // by method, of calls and of observed calls
}

// NewTarget returns a target by its canonical name, which may be empty.
func NewTarget(name string) *Target {
	if name == "" {
		name = other
	}
	return &Target{label: name}
}

// Call is one outgoing call. The zero value is one of no client.
type Call struct {
	client   *Client
	ctx      context.Context //nolint:containedctx // of the call, in which metrics are recorded
	method   *Method
	target   *Target
	observed bool
	span     trace.Span // nil if it is not recorded
	maker    spanMaker
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
		call.maker = c.trace.spanMaker(cc)
	}
	call.ctx = ctx
	return ctx
}

// Root counts a call that belongs to no request.
func (c *Call) Root() {
	if n := c.client.count; n != nil {
		s := c.series()
		n.roots.Add(c.ctx, 1, s.root.get(func() *labels { return newLabels(attrGRPCMethod.String(s.method)) }).add...)
	}
}

// Carrier returns the metadata that carries the trace of an attempt: keys, each followed by its
// value.
func (c *Call) Carrier(ctx context.Context) []string { return c.client.trace.context(ctx, c.maker) }

// Attempt is what is known of an attempt when it starts.
type Attempt struct {
	Number  int
	Lent    int // tokens; not recorded for an observed call, which carries none
	Started time.Time
	Reserve time.Duration
}

// StartAttempt starts the span of an attempt if the call is recorded, and returns its context. The
// span is nil if it is not recorded.
func (c *Call) StartAttempt(ctx context.Context, a Attempt) (context.Context, trace.Span) {
	if c.span == nil {
		return ctx, nil
	}
	opts := c.method.spans.internal
	if c.client.trace.clientSpan(c.maker) {
		opts = c.method.spans.client
	}
	ctx, span := c.client.trace.tracer.Start(ctx, c.method.Name, opts...)
	span.SetAttributes(AttrAttempt.Int(a.Number))
	if !c.observed {
		span.SetAttributes(AttrLent.Int(a.Lent))
	}
	if d, ok := ctx.Deadline(); ok {
		span.SetAttributes(AttrRemaining.Float64(Millis(d.Sub(a.Started))), attrReserve.Float64(Millis(a.Reserve)))
	}
	return ctx, span
}

// AttemptEnd is what is known of an attempt when it ends.
type AttemptEnd struct {
	Err      error
	Decision Decision
	Reason   string // empty if the decision says enough
	Used     int    // tokens
	Hedge    string // HedgeResultWon or HedgeResultLost, or empty if it was alone
	Ended    time.Time
}

// EndAttempt counts an attempt, and ends its span, which may be nil.
func (c *Call) EndAttempt(ctx context.Context, span trace.Span, a *AttemptEnd) {
	if n := c.client.count; n != nil {
		n.attempt(ctx, c.series(), a.Decision)
	}
	if span == nil {
		return
	}
	span.SetAttributes(attrDecision.String(string(a.Decision)), attrUsed.Int(a.Used))
	if a.Reason != "" && a.Decision != HedgeLost {
		span.SetAttributes(attrReason.String(a.Reason))
	}
	failed := isFailure
	if a.Hedge != "" {
		span.SetAttributes(attrHedge.String(a.Hedge))
		if a.Hedge == HedgeResultLost { // it was cancelled because it was no longer needed
			failed = func(codes.Code) bool { return false }
		}
	}
	endSpan(span, a.Err, c.observed, failed, trace.WithTimestamp(a.Ended))
}

// Messages records on the span of a stream's attempt how many messages were sent and received, and
// what ended the time in which the stream could be retried.
func (c *Call) Messages(span trace.Span, sent, received int64, committedBy string) {
	if span == nil {
		return
	}
	span.SetAttributes(attrSent.Int64(sent), attrReceived.Int64(received))
	if committedBy != "" {
		span.SetAttributes(attrCommitted.String(committedBy))
	}
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
}

// Malformed records a value of the metadata that was malformed and ignored.
func (c *Call) Malformed(key string) {
	if n := c.client.count; n != nil {
		n.malformed(c.ctx, c.method, key)
	}
	if c.span != nil {
		c.event("hopbound.malformed", attrHeader.String(key))
	}
}

// Overreported counts a reply that reports more tokens as used than were lent.
func (c *Call) Overreported() {
	if n := c.client.count; n != nil {
		n.over.Add(c.ctx, 1, newLabels(attrGRPCTarget.String(c.target.label)).add...)
	}
}

// OtherRetries records that another interceptor retries the call.
func (c *Call) OtherRetries() {
	if c.span != nil {
		c.span.SetAttributes(attrOtherRetries.Bool(true))
	}
	if n := c.client.count; n != nil {
		n.others.Add(c.ctx, 1, newLabels(attrGRPCMethod.String(c.method.Label())).add...)
	}
	c.client.otherRetries.warn(c.ctx, c.client.settings.Log(),
		"another client interceptor retries this method, and Hopbound does not retry these calls; remove the other interceptor",
		"side", sideClient, "method", "/"+c.method.Name)
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
}

// End counts the call, and ends its span.
func (c *Call) End(e *CallEnd) {
	if n := c.client.count; n != nil {
		n.call(c.ctx, c.series(), e)
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
