package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/examples/internal/services"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// output is what a command prints while it runs.
type output struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	first chan struct{} // closed after the first line
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() == 0 {
		close(o.first)
	}
	return o.buf.Write(p)
}

// startLive runs the command with a page, and returns the page's address. quit ends
// it, as an interrupt does.
func startLive(t *testing.T, args ...string) (page string, quit func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, log := &output{first: make(chan struct{})}, &output{first: make(chan struct{})}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, append([]string{"-ui", "127.0.0.1:0"}, args...), out, log) }()
	quit = sync.OnceFunc(func() {
		cancel()
		if code := <-ended; code != 0 {
			t.Errorf("exit %d: %s", code, log.buf.String())
		}
	})
	t.Cleanup(quit)
	select {
	case <-out.first:
	case <-log.first:
		t.Fatal(log.buf.String())
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	return strings.TrimSuffix(strings.Fields(out.buf.String())[4], ","), quit
}

// get returns what is read from an address, until the test ends.
func get(t *testing.T, url string) io.Reader {
	t.Helper()
	return request(t, http.MethodGet, url).Body //nolint:bodyclose // it is, when the test ends
}

func request(t *testing.T, method, url string, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

// next reads the next snapshot of a stream.
func next(t *testing.T, stream *bufio.Scanner) snapshot {
	t.Helper()
	for stream.Scan() {
		if text, ok := strings.CutPrefix(stream.Text(), "data: "); ok {
			var s snapshot
			if err := json.Unmarshal([]byte(text), &s); err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	t.Fatalf("the stream has ended: %v", stream.Err())
	return snapshot{}
}

func TestLiveServesWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	page, _ := startLive(t, "-depth", "2")
	stream := bufio.NewScanner(get(t, page+"/events"))
	stream.Buffer(nil, 1<<20)
	s := next(t, stream)
	for s.Stacks[hopbound].Rate == 0 || len(s.Traces[hopbound]) == 0 {
		s = next(t, stream)
	}
	if s.Fault != "healthy" || len(s.Stacks) != 2 || len(s.Stacks[native].Hops) != 3 || s.Stacks[native].Success != 1 {
		t.Errorf("got %+v", s)
	}
	var got tracePage
	if err := json.NewDecoder(get(t, page+"/trace/hopbound/"+s.Traces[hopbound][0].ID)).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if len(got.Spans) != 7 { // the user's, and for each of two hops a call, an attempt and a server's
		t.Errorf("%d spans: %+v", len(got.Spans), got.Spans)
	}
	for _, want := range []struct {
		method, path string
		code         int
		header       []string
	}{
		{http.MethodGet, "/", 200, nil},
		{http.MethodGet, "/page.js", 200, nil},
		{http.MethodGet, "/nothing", 404, nil},
		{http.MethodGet, "/trace/hopbound/zz", 400, nil},
		{http.MethodGet, "/trace/hopbound/0123456789abcdef0123456789abcdef", 404, nil},
		{http.MethodPost, "/fault/slow", 204, nil},
		{http.MethodPost, "/fault/nothing", 404, nil},
		{http.MethodPost, "/fault/down", 403, []string{"Origin", "https://elsewhere.example", "Sec-Fetch-Site", "cross-site"}},
		{http.MethodGet, "/fault/down", 404, nil},
		{http.MethodGet, "/metrics", 200, nil},
	} {
		answer := request(t, want.method, page+want.path, want.header...) //nolint:bodyclose // it is, when the test ends
		if answer.StatusCode != want.code {
			t.Errorf("%s %s: %s, want %d", want.method, want.path, answer.Status, want.code)
		}
	}
	if s := next(t, stream); s.Fault != "slow" {
		t.Errorf("the fault is %s", s.Fault)
	}
}

// Each fault is what its button says, seen by a user whose calls are not repeated.
func TestFaultsAreWhatTheySay(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fault{
		"healthy": {}, "down": {fail: 1}, "lost": {lose: 1}, "slow": {slow: 50 * time.Millisecond},
	} {
		c, err := start(t.Context(), &config{depth: 1}, builder{stack: native, attempts: 1}, f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.close)
		began := time.Now()
		err = c.request(t.Context(), time.Minute)
		said := status.Convert(err).Message()
		switch took := time.Since(began); {
		case c.leafCalls.Load() != 1:
			t.Errorf("%s: the leaf had %d calls", name, c.leafCalls.Load())
		case (err != nil) != (name == "down" || name == "lost"):
			t.Errorf("%s: %v", name, err)
		case strings.HasPrefix(said, "the last service is down") != (name == "down"):
			t.Errorf("%s: the user is told %q", name, said)
		case name == "slow" && took < f.slow:
			t.Errorf("%s: it took %v", name, took)
		}
	}
	for _, name := range []string{"healthy", "down", "slow", "failing", "lost"} {
		if _, ok := choices()[name]; !ok {
			t.Errorf("no button can choose %s", name)
		}
	}
}

// Whoever publishes waits for nobody, and nobody is owed more than the last.
func TestPagesThatDoNotReadHoldNothingUp(t *testing.T) {
	t.Parallel()
	h := newHub()
	var pages []chan []byte
	for range 10 {
		c, ok := h.join()
		if !ok {
			t.Fatal("too many")
		}
		pages = append(pages, c)
	}
	for i := range 1000 {
		h.publish([]byte{byte(i)})
	}
	for _, c := range pages {
		if len(c) != 1 || (<-c)[0] != byte(999%256) {
			t.Error("a page does not get the last")
		}
		h.leave(c)
	}
	for range maxPages {
		h.join()
	}
	if _, ok := h.join(); ok {
		t.Error("a page too many")
	}
}

func TestTraceStoreIsBounded(t *testing.T) {
	t.Parallel()
	store := newTraceStore(1)
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(store))
	tracer := provider.Tracer("")
	for range 2 * maxTraces {
		_, span := tracer.Start(t.Context(), "request")
		span.End()
	}
	if len(store.traces) != maxTraces {
		t.Errorf("%d traces", len(store.traces))
	}
	// A page may still show a request that has left the list.
	if kept := store.summaries(time.Now().Add(2 * lateSpans)); len(kept) != maxSimple || len(store.traces) != maxTraces {
		t.Errorf("%d traces of %d", len(kept), len(store.traces))
	}
	if kept := store.summaries(time.Now().Add(time.Minute)); len(kept) != maxSimple || len(store.traces) != maxSimple {
		t.Errorf("%d traces of %d", len(kept), len(store.traces))
	}
	ctx, root := tracer.Start(t.Context(), "request")
	for range maxSpans + 10 {
		_, span := tracer.Start(ctx, "child")
		span.End()
	}
	root.End()
	spans, dropped, ok := store.spans(root.SpanContext().TraceID())
	if !ok || len(spans) != maxSpans+1 || dropped != 10 {
		t.Errorf("%d spans, %d dropped", len(spans), dropped)
	}
}

// sink takes spans and metrics by OTLP.
type sink struct {
	mu       sync.Mutex
	services map[string]int // spans of each
	metrics  map[string]bool
}

type spanSink struct {
	ptraceotlp.UnimplementedGRPCServer
	*sink
}

func (s *spanSink) Export(_ context.Context, req ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range req.Traces().ResourceSpans().All() {
		name, _ := rs.Resource().Attributes().Get("service.name")
		for _, ss := range rs.ScopeSpans().All() {
			s.services[name.Str()] += ss.Spans().Len()
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}

type metricSink struct {
	pmetricotlp.UnimplementedGRPCServer
	*sink
}

func (s *metricSink) Export(_ context.Context, req pmetricotlp.ExportRequest) (pmetricotlp.ExportResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rm := range req.Metrics().ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				s.metrics[m.Name()] = true
			}
		}
	}
	return pmetricotlp.NewExportResponse(), nil
}

func startSink(t *testing.T) (*sink, string) {
	t.Helper()
	s := &sink{services: map[string]int{}, metrics: map[string]bool{}}
	return s, services.GRPC(t, func(server *grpc.Server) {
		ptraceotlp.RegisterGRPCServer(server, &spanSink{sink: s})
		pmetricotlp.RegisterGRPCServer(server, &metricSink{sink: s})
	})
}

func TestBackendGetsSpansAndMetricsOfTheLiveChains(t *testing.T) {
	t.Parallel()
	s, address := startSink(t)
	page, quit := startLive(t, "-depth", "1", "-otlp", address)
	stream := bufio.NewScanner(get(t, page+"/events"))
	stream.Buffer(nil, 1<<20)
	for now := next(t, stream); len(now.Traces[hopbound]) == 0 || len(now.Traces[native]) == 0; now = next(t, stream) {
		continue
	}
	quit() // sends what there still is
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, service := range []string{"hopbound-user", "hopbound-hop1", "native-user", "native-hop1"} {
		if s.services[service] == 0 {
			t.Errorf("no spans of %s in %v", service, s.services)
		}
	}
	for _, metric := range []string{"hopbound.client.calls", "hopbound.server.calls", "rpc.server.call.duration", requestMetric} {
		if !s.metrics[metric] {
			t.Errorf("no %s in %v", metric, s.metrics)
		}
	}
}

func TestBackendGetsTheTraceOfTheTable(t *testing.T) {
	t.Parallel()
	s, address := startSink(t)
	var log bytes.Buffer
	if code := run(t.Context(), []string{"-depth", "2", "-requests", "3", "-stack", "hopbound", "-otlp", address}, io.Discard, &log); code != 0 {
		t.Fatal(log.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.services["the user"] == 0 || s.services["service 1"] == 0 || s.services["service 2"] == 0 {
		t.Errorf("got %v", s.services)
	}
}
