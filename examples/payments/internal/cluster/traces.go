package cluster

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/hopbound/hopbound/examples/internal/tree"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
)

// Traces receives the spans of all processes by OTLP, in place of a tracing backend.
type Traces struct {
	ptraceotlp.UnimplementedGRPCServer

	Address string
	server  *grpc.Server
	done    chan struct{}

	mu    sync.Mutex
	spans []*tree.Span
}

// newTraces receives spans until it is closed.
func newTraces() (*Traces, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		return nil, err
	}
	t := &Traces{Address: listener.Addr().String(), server: grpc.NewServer(), done: make(chan struct{})}
	ptraceotlp.RegisterGRPCServer(t.server, t)
	go func() {
		defer close(t.done)
		_ = t.server.Serve(listener) // ends with Stop
	}()
	return t, nil
}

func (t *Traces) close() {
	t.server.Stop()
	<-t.done
}

// Export receives spans.
func (t *Traces) Export(_ context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, of := range req.Traces().ResourceSpans().All() {
		service, _ := of.Resource().Attributes().Get("service.name")
		for _, scope := range of.ScopeSpans().All() {
			for _, s := range scope.Spans().All() {
				t.spans = append(t.spans, treeSpan(service.Str(), s))
			}
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}

func treeSpan(service string, s ptrace.Span) *tree.Span {
	t := &tree.Span{
		Trace: s.TraceID().String(), ID: s.SpanID().String(), Name: s.Name(), Service: service,
		Began: s.StartTimestamp().AsTime(), Ended: s.EndTimestamp().AsTime(),
		Failed: s.Status().Code() == ptrace.StatusCodeError, Message: s.Status().Message(), Attributes: s.Attributes().AsRaw(),
	}
	if !s.ParentSpanID().IsEmpty() {
		t.Parent = s.ParentSpanID().String()
	}
	switch s.Kind() {
	case ptrace.SpanKindClient:
		t.Kind = tree.Client
	case ptrace.SpanKindServer:
		t.Kind = tree.Server
	default:
	}
	for _, e := range s.Events().All() {
		t.Events = append(t.Events, tree.Event{Name: e.Name(), At: e.Timestamp().AsTime(), Attributes: e.Attributes().AsRaw()})
	}
	return t
}

// Write prints the spans of a trace as a tree.
func (t *Traces) Write(out io.Writer, trace string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	spans := slices.DeleteFunc(slices.Clone(t.spans), func(s *tree.Span) bool { return s.Trace != trace })
	_, err := tree.Write(out, spans)
	return err
}

// Has reports whether a trace has a span of each service.
func (t *Traces) Has(trace string, services ...string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !slices.ContainsFunc(services, func(name string) bool {
		return !slices.ContainsFunc(t.spans, func(s *tree.Span) bool { return s.Trace == trace && s.Service == name })
	})
}
