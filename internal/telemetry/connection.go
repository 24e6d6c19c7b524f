package telemetry

import (
	"context"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"weak"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
)

// handlers is what the stats handlers of a connection do, as far as one attempt showed.
type handlers struct {
	hidden  bool // they cannot be seen: an interceptor has replaced the watcher by its own credentials
	spans   bool // they create a span below that of each attempt
	sends   bool // they send a trace context of their own
	metrics bool // they are those of grpc-go's stats/opentelemetry, which export the metrics of gRFC A66
}

// connections knows the stats handlers of connections. gRPC has no method that returns them. Each
// connection's first attempt shows them: see watcher.
type connections struct{ known sync.Map } // of *atomic.Pointer[handlers], by a weak pointer to the connection

// of returns where the handlers of a connection are kept, which are nil until they are known.
func (c *connections) of(cc *grpc.ClientConn) *atomic.Pointer[handlers] {
	if cc == nil {
		return nil
	}
	key := weak.Make(cc)
	known, ok := c.known.Load(key)
	if !ok {
		if known, ok = c.known.LoadOrStore(key, &atomic.Pointer[handlers]{}); !ok {
			runtime.AddCleanup(cc, func(c *connections) { c.known.Delete(key) }, c)
		}
	}
	return known.(*atomic.Pointer[handlers]) //nolint:errcheck,forcetypeassert // the map has nothing else
}

// watcher sees the context with which gRPC sends an attempt, in which the connection's stats handlers
// have put their span. It is a credential of the call: gRPC asks credentials for metadata with that
// context. gRPC may ask more than once, because it sends an attempt again that no server can have seen.
type watcher struct {
	inner   credentials.PerRPCCredentials // the call's other ones; nil if it has none
	call    *Call
	attempt Attempt
	own     trace.SpanID // the span that is current above the stats handlers
	later   bool         // the attempt's span starts here, and its trace context is sent from here

	mu     sync.Mutex
	asked  bool
	span   trace.Span // started here; nil if there is none
	folded bool       // the span of a stats handler has the attempt's attributes
	ended  bool
}

// GetRequestMetadata implements [credentials.PerRPCCredentials].
func (w *watcher) GetRequestMetadata(ctx context.Context, uri ...string) (kv map[string]string, err error) {
	if w.inner != nil {
		kv, err = w.inner.GetRequestMetadata(ctx, uri...)
	}
	span := trace.SpanFromContext(ctx)
	below := span.SpanContext().IsValid() && span.SpanContext().SpanID() != w.own
	sent, _ := metadata.FromOutgoingContext(ctx)
	if conn := w.call.conn; conn != nil && conn.Load() == nil {
		others := func(traceparent string) bool { return !strings.Contains(traceparent, w.own.String()) }
		conn.Store(&handlers{
			spans: below, sends: slices.ContainsFunc(sent["traceparent"], others),
			metrics: strings.Contains(fmt.Sprint(ctx), "opentelemetry.clientRPCInfoKey"),
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = true
	if !w.later || err != nil {
		return kv, err
	}
	switch {
	case below:
		w.folded = true
		span.SetAttributes(w.call.attributesOf(ctx, &w.attempt)...)
	case w.span == nil && !w.ended:
		ctx, w.span = w.call.startSpan(ctx, &w.attempt, true, true)
	case w.span != nil:
		ctx = trace.ContextWithSpan(ctx, w.span)
	}
	return w.carry(ctx, sent, kv), nil
}

// carry adds to the metadata of credentials the trace context of an attempt, unless a stats handler has
// sent its own.
func (w *watcher) carry(ctx context.Context, sent metadata.MD, kv map[string]string) map[string]string {
	carrier := w.call.client.trace.context(ctx, false)
	merged := make(map[string]string, len(kv)+len(carrier)/2)
	maps.Copy(merged, kv)
	for i := 0; i < len(carrier); i += 2 {
		if len(sent[carrier[i]]) == 0 {
			merged[carrier[i]] = carrier[i+1]
		}
	}
	return merged
}

// RequireTransportSecurity implements [credentials.PerRPCCredentials].
func (w *watcher) RequireTransportSecurity() bool {
	return w.inner != nil && w.inner.RequireTransportSecurity()
}

// end returns the span of an attempt that has ended, or that it has none. One that was not sent starts
// its span now.
func (w *watcher) end(ctx context.Context, reached bool) (span trace.Span, folded bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if reached && !w.asked && w.call.conn != nil {
		w.call.conn.Store(&handlers{hidden: true})
	}
	if w.later && w.span == nil && !w.folded {
		_, w.span = w.call.startSpan(ctx, &w.attempt, true, true)
	}
	return w.span, w.span == nil
}

// Watch adds to an attempt's call options the watcher that the attempt may need.
func (a *Attempt) Watch(opts []grpc.CallOption) []grpc.CallOption {
	if a.watcher == nil {
		return opts
	}
	for _, o := range opts {
		if o, ok := o.(grpc.PerRPCCredsCallOption); ok {
			a.watcher.inner = o.Creds
		}
	}
	return append(opts, grpc.PerRPCCredentials(a.watcher))
}

// exportsGRPC reports whether the metrics of gRFC A66 are to be exported: unless stats/opentelemetry
// exports them. If the connection's stats handlers were unknown when the call started, this attempt
// has shown them.
func (c *Call) exportsGRPC() bool {
	h := c.handlers
	if h == nil && c.conn != nil {
		h = c.conn.Load()
	}
	return h == nil || !h.metrics
}

// serverAddress is the address of a server as a target names it.
type serverAddress []attribute.KeyValue

// serverAddressOf takes the target as gRPC writes it: with a scheme.
func serverAddressOf(target string) serverAddress {
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		return serverAddress{semconv.ServerAddress(strings.TrimPrefix(path, "//"))}
	}
	endpoint := target
	if _, rest, ok := strings.Cut(target, "://"); ok {
		if _, endpoint, ok = strings.Cut(rest, "/"); !ok { // a URL of HTTP
			endpoint = rest
		}
	}
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return serverAddress{semconv.ServerAddress(endpoint)}
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return serverAddress{semconv.ServerAddress(host)}
	}
	return serverAddress{semconv.ServerAddress(host), semconv.ServerPort(n)}
}

// peerAttributes returns the address of the server that was picked for an attempt.
func peerAttributes(addr net.Addr) []attribute.KeyValue {
	if addr == nil {
		return nil
	}
	if tcp, ok := addr.(*net.TCPAddr); ok {
		return []attribute.KeyValue{semconv.NetworkPeerAddress(tcp.IP.String()), semconv.NetworkPeerPort(tcp.Port)}
	}
	return []attribute.KeyValue{semconv.NetworkPeerAddress(addr.String())}
}
