package telemetry

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/internal/cache"
	"github.com/hopbound/hopbound/internal/hoperr"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Server records the incoming calls of a server. It is safe for concurrent use.
type Server struct {
	settings  *Settings
	trace     *tracing        // nil if there is no tracer provider
	count     *serverCounters // nil if there is no meter provider
	storeKind string

	series [2]cache.Names[serverSeries] // by method, of calls and of observed calls

	grpcMetrics atomic.Pointer[bool] // whether stats/opentelemetry exports the metrics of gRFC A66; nil if it is unknown

	installedTwice logOnce
	uncuttable     logOnce
	traceChecked   atomic.Bool // whether a stats handler continues callers' traces was looked at
	storeFailures  logLimit
	rejections     logLimit
	ignored        logLimit
}

// NewServer returns what records the calls of a server. The argument storeKind is the name of the
// kind of its idempotency store.
func NewServer(s *Settings, storeKind string) (*Server, error) {
	t := &Server{settings: s, trace: newTracing(s), storeKind: storeKind}
	var err error
	t.count, err = newServerCounters(s, storeKind)
	return t, err
}

// NewMethod returns a method by its name, "service/method". If known is false, metrics do not
// name it.
func (s *Server) NewMethod(name string, known bool) *Method { return newMethod(s.trace, name, known) }

// KeysShared warns that callers may share their idempotency keys.
func (s *Server) KeysShared() {
	s.settings.Log().Warn("hopbound: callers without a transport identity (mutual TLS, ALTS) share their idempotency keys; " +
		"set idempotency.Tenant, or idempotency.SharedKeys if this is intended")
}

// Incoming is one incoming call.
type Incoming struct {
	server   *Server
	method   *Method
	observed bool
	root     bool       // no hop before this one is known
	span     trace.Span // nil if it is not recorded
	owned    bool       // the span was started here, and must be ended here
}

// Arrival is what a call says of itself when it arrives.
type Arrival struct {
	Outside bool // its caller is not trusted
	Root    bool // its caller is outside, or does not know Hopbound
	Attempt int  // from 1; 0 if unknown
	Lent    int  // tokens, if HasLent
	HasLent bool
}

// Start starts the record of a call, and returns the context of its span: a child of the caller's
// attempt or, if this process has started a span for the call already, such as otelgrpc's, that one.
func (s *Server) Start(ctx context.Context, in *Incoming, m *Method, observed bool, a Arrival) context.Context {
	*in = Incoming{server: s, method: m, observed: observed, root: a.Root}
	if s.count != nil && s.grpcMetrics.Load() == nil {
		theirs := strings.Contains(fmt.Sprint(ctx), "opentelemetry.serverRPCInfoKey")
		s.grpcMetrics.Store(&theirs)
	}
	if s.trace == nil {
		return ctx
	}
	if span := trace.SpanFromContext(ctx); !span.SpanContext().IsValid() || span.SpanContext().IsRemote() {
		ctx = in.startSpan(ctx, a.Outside)
	} else {
		if span.IsRecording() {
			in.span = span
		}
		in.checkTrace(ctx, span, a.Outside)
	}
	if in.span != nil {
		if a.Attempt > 0 {
			in.span.SetAttributes(AttrAttempt.Int(a.Attempt))
		}
		if a.HasLent {
			in.span.SetAttributes(AttrLent.Int(a.Lent))
		}
	}
	return ctx
}

// startSpan starts a span as a child of the one that the caller's metadata names.
func (in *Incoming) startSpan(ctx context.Context, outside bool) context.Context {
	t := in.server.trace
	remote := t.propagators.Extract(ctx, incomingMetadata{ctx})
	opts := in.method.spans.server
	if outside { // the trace of an untrusted caller is not continued
		opts = append(slices.Clip(in.method.spans.edge), trace.WithLinks(trace.LinkFromContext(remote)))
	} else {
		ctx = remote
	}
	ctx, span := t.tracer.Start(ctx, in.method.Name, opts...)
	if span.IsRecording() {
		in.span, in.owned = span, true
	}
	return ctx
}

// checkTrace warns if a stats handler has started a trace of its own although the caller sent one. It looks at
// the first call whose caller sent one.
func (in *Incoming) checkTrace(ctx context.Context, span trace.Span, outside bool) {
	s := in.server
	if outside || s.traceChecked.Load() {
		return
	}
	sent := trace.SpanContextFromContext(s.trace.propagators.Extract(context.Background(), incomingMetadata{ctx}))
	if !sent.IsValid() || s.traceChecked.Swap(true) {
		return
	}
	if sent.TraceID() != span.SpanContext().TraceID() {
		s.settings.Log().WarnContext(ctx, "hopbound: a stats handler does not continue the caller's trace, so that each hop has a trace of its own; "+
			"set a propagator: otel.SetTextMapPropagator(propagation.TraceContext{}), or otelgrpc.WithPropagators", "side", sideServer, "method", "/"+in.method.Name)
	}
}

// Time is a time that may be unlimited.
type Time struct {
	Left    time.Duration
	Limited bool
}

// Arrived records the time that the call has left, after the server's own limits, and what is
// deducted from it for queueing. The argument waits is how long the caller waits.
func (in *Incoming) Arrived(ctx context.Context, remaining, waits Time, excess time.Duration) {
	if in.span != nil {
		if remaining.Limited {
			in.span.SetAttributes(AttrRemaining.Float64(Millis(remaining.Left)))
		}
		in.span.SetAttributes(attrExcess.Float64(Millis(excess)))
	}
	if n := in.server.count; n != nil && waits.Limited {
		n.headroom.Record(ctx, max(0, waits.Left).Seconds(), in.series().only.record...)
	}
}

// Rejected records that the server rejected the call, or would have.
func (in *Incoming) Rejected(ctx context.Context, reason string) {
	if n := in.server.count; n != nil {
		n.rejected(ctx, in.method, in.observed, reason)
	}
	if in.span != nil {
		in.span.AddEvent("hopbound.refusal", trace.WithAttributes(attrReason.String(reason)))
		if in.observed {
			in.span.SetAttributes(attrMode.String(modeName(true)))
		}
	}
	if !in.observed && in.server.rejections.ready() {
		in.server.rejections.warn(ctx, in.server.settings.Log(), "a call was rejected", "side", sideServer, "method", "/"+in.method.Name, "reason", reason)
	}
}

// Malformed records a value of the metadata that was malformed and ignored.
func (in *Incoming) Malformed(ctx context.Context, key string) {
	if n := in.server.count; n != nil {
		n.malformed(ctx, in.method, key)
	}
	if in.span != nil {
		in.span.AddEvent("hopbound.malformed", trace.WithAttributes(attrHeader.String(key)))
	}
	if in.server.ignored.ready() {
		in.server.ignored.warn(ctx, in.server.settings.Log(), "a malformed value was ignored", "side", sideServer, "method", "/"+in.method.Name, "header", key)
	}
}

// InstalledTwice records that the call outer, perhaps of another server, has come to this server's
// interceptors.
func (s *Server) InstalledTwice(ctx context.Context, outer *Incoming) {
	if outer.span != nil {
		outer.span.SetAttributes(attrInstalledTwice.Bool(true))
	}
	if s.count != nil {
		s.count.countTwice(ctx, outer.method)
	}
	s.installedTwice.warn(ctx, s.settings.Log(), installedTwice, "side", sideServer, "method", "/"+outer.method.Name)
}

// Uncuttable logs that a limit of a stream could not end the stream itself.
func (in *Incoming) Uncuttable(ctx context.Context) {
	in.server.uncuttable.warn(ctx, in.server.settings.Log(), "a stream limit has ended the handler's context, but cannot end a pending RecvMsg or SendMsg: "+
		"an interceptor or another server has replaced gRPC's own stream", "method", "/"+in.method.Name)
}

// clientCancelEarly is how much earlier than the deadline a cancellation may arrive that the
// deadline has caused: at its deadline, the caller's reset is often faster than the server's timer.
const clientCancelEarly = time.Millisecond

// End counts a call that ended with err, and the work done on it after its deadline, and ends its
// span. The argument late is by how much it ended after the deadline, negative if it was earlier.
func (in *Incoming) End(ctx context.Context, err error, used int, took, late time.Duration) {
	if code := hoperr.Code(err); code == codes.OK && late > 0 || code == codes.Canceled && late > -clientCancelEarly {
		// The caller has not received what was sent after the deadline.
		err = errLate
	}
	if in.server.count != nil {
		in.countEnd(ctx, hoperr.Code(err), took, late)
	}
	if in.span == nil {
		return
	}
	in.span.SetAttributes(attrUsed.Int(used))
	if late > 0 {
		in.span.SetAttributes(attrLate.Float64(Millis(late)))
	}
	if in.owned {
		endSpan(in.span, err, in.observed, isServerFault)
	}
}

var errLate = status.Error(codes.DeadlineExceeded, "the call ended after its deadline")

func (in *Incoming) countEnd(ctx context.Context, code codes.Code, took, late time.Duration) {
	n, s := in.server.count, in.series()
	n.calls.Add(ctx, 1, s.calls[index(in.root)].get(code, func(name string) *labels {
		return n.own.calls.by(code != codes.OK, attrGRPCMethod, s.method, attrGRPCStatus.String(name), attrRoot.Bool(in.root), attrMode.String(s.mode))
	}).add...)
	if theirs := in.server.grpcMetrics.Load(); theirs == nil || !*theirs {
		n.duration.Record(ctx, took.Seconds(), s.durations.get(code, func(name string) *labels {
			return n.own.duration.by(code != codes.OK, attrGRPCMethod, s.method, attrGRPCStatus.String(name))
		}).record...)
	}
	if late > 0 {
		n.wasted.Add(ctx, late.Seconds(), s.only.add...)
	}
}
