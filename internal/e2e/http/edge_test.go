package http_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
)

// edge serves a handler at the edge until the test ends.
func edge(t *testing.T, next http.HandlerFunc, options []interceptors.ServerOption, opts ...hophttp.HandlerOption) *httptest.Server {
	t.Helper()
	return serve(t, next, append([]interceptors.ServerOption{interceptors.AtEdge()}, options...), opts...)
}

// serve serves a handler with Hopbound until the test ends.
func serve(t *testing.T, next http.HandlerFunc, options []interceptors.ServerOption, opts ...hophttp.HandlerOption) *httptest.Server {
	t.Helper()
	h, err := hophttp.NewHandler(harness.NewServer(t, options...), next, opts...)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// A frontend that makes nine calls for one page, as that of Online Boutique does: all of them share one deadline and one
// budget.
func TestPageOfNineCallsIsOneRequest(t *testing.T) {
	t.Parallel()
	const pages, services = 50, 9
	var leaf [services]harness.Counter
	client := harness.NewClient(t, harness.FastRetry())
	var calls []harness.Call
	for i := range leaf {
		leaf[i].Fail = func(n int64) error { // each service fails some calls once
			if n%10 == int64(i) {
				return harness.ErrUnavailable
			}
			return nil
		}
		n := harness.Serve(t, leaf[i].Handle, harness.NewServer(t).ServerOptions()...)
		calls = append(calls, harness.Idempotent(n.DialTarget(fmt.Sprintf("passthrough:///service-%d", i), client.DialOptions()...)))
	}
	var used, noDeadline atomic.Int64
	page := edge(t, func(w http.ResponseWriter, r *http.Request) {
		if left, ok := deadline.Remaining(r.Context()); !ok || left > time.Minute {
			noDeadline.Add(1)
		}
		for _, call := range calls {
			if err := call(r.Context()); err != nil {
				hophttp.WriteError(w, err)
				return
			}
		}
		a, _ := budget.FromContext(r.Context())
		used.Add(int64(a.Used()))
		_, _ = fmt.Fprint(w, "the page")
	}, []interceptors.ServerOption{interceptors.WithDefaultDeadline(time.Minute)})
	var failed atomic.Int64
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for range pages / 5 {
				if r := get(t, http.DefaultTransport, page.URL); r.status != http.StatusOK || r.body != "the page" {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if failed.Load()+noDeadline.Load() > 0 {
		t.Errorf("%d pages failed, %d had no deadline", failed.Load(), noDeadline.Load())
	}
	total := int64(0)
	for i := range leaf {
		total += leaf[i].Calls.Load()
	}
	if extra := total - pages*services; extra != used.Load() || extra == 0 {
		t.Errorf("%d extra attempts, and the budgets of the pages have paid for %d", extra, used.Load())
	}
}

// With all services down, the page's retries are bounded by its budget, not by each call's policy.
func TestPageWithoutServicesStaysWithinItsBudget(t *testing.T) {
	t.Parallel()
	const perRequest = 3
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	b := harness.FixedBudget(budget.PerRequest(perRequest), budget.Burst(1000))
	n := harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	call := harness.Idempotent(n.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithBudget(b)).DialOptions()...))
	page := edge(t, func(w http.ResponseWriter, r *http.Request) {
		var err error
		for range 9 {
			if e := call(r.Context()); e != nil {
				err = e
			}
		}
		hophttp.WriteError(w, err)
	}, nil)
	r := get(t, http.DefaultTransport, page.URL)
	if leaf.Calls.Load() != 9+perRequest {
		t.Errorf("%d calls at the leaf, want nine and the budget of %d", leaf.Calls.Load(), perRequest)
	}
	if r.status != http.StatusServiceUnavailable || r.header.Get("Grpc-Retry-Pushback-Ms") != "-1" || r.header.Get("Hop-Report") != "" {
		t.Errorf("answer %d with header %v, want 503, marked and without a report", r.status, r.header)
	}
}

func TestCallersLimitTheTimeOfARequest(t *testing.T) {
	t.Parallel()
	left := make(chan time.Duration, 1)
	s := edge(t, func(_ http.ResponseWriter, r *http.Request) {
		d, ok := deadline.Remaining(r.Context())
		if !ok {
			d = -1
		}
		left <- d
	}, []interceptors.ServerOption{interceptors.WithDefaultDeadline(time.Hour)}, hophttp.TimeoutHeader("X-Timeout", 10*time.Minute))
	for _, c := range []struct {
		name, header, value string
		above, atMost       time.Duration
	}{
		{"none", "", "", 50 * time.Minute, time.Hour},
		{"milliseconds", "X-Timeout", "300000", 4 * time.Minute, 5 * time.Minute},
		{"a duration", "X-Timeout", "2m30s", 2 * time.Minute, 150 * time.Second},
		{"more than the bound", "X-Timeout", "24h", 9 * time.Minute, 10 * time.Minute},
		{"far more than the bound", "X-Timeout", "999999999999999999", 50 * time.Minute, time.Hour}, // malformed
		{"malformed", "X-Timeout", "soon", 50 * time.Minute, time.Hour},
		{"negative", "X-Timeout", "-5s", 50 * time.Minute, time.Hour},
		{"zero", "X-Timeout", "0", 50 * time.Minute, time.Hour},
		{"as gRPC sends it", "Grpc-Timeout", "7M", 6 * time.Minute, 7 * time.Minute},
		{"as gRPC sends it, malformed", "Grpc-Timeout", "7Q", 50 * time.Minute, time.Hour},
	} {
		request := newRequest(t, http.MethodGet, s.URL, "")
		if c.header != "" {
			request.Header.Set(c.header, c.value)
		}
		do(t, http.DefaultTransport, request)
		if got := <-left; got <= c.above || got > c.atMost {
			t.Errorf("%s: %v left, want more than %v and at most %v", c.name, got, c.above, c.atMost)
		}
	}
}

func TestTheShorterOfTwoTimeoutsCounts(t *testing.T) {
	t.Parallel()
	var left time.Duration
	s := edge(t, func(_ http.ResponseWriter, r *http.Request) { left, _ = deadline.Remaining(r.Context()) },
		[]interceptors.ServerOption{interceptors.WithDefaultDeadline(time.Hour)}, hophttp.TimeoutHeader("X-Timeout", time.Hour))
	for _, c := range []struct{ gRPC, own string }{{"7M", "30m"}, {"30M", "7m"}} {
		request := newRequest(t, http.MethodGet, s.URL, "")
		request.Header.Set("Grpc-Timeout", c.gRPC)
		request.Header.Set("X-Timeout", c.own)
		if do(t, http.DefaultTransport, request); left <= 0 || left > 7*time.Minute {
			t.Errorf("Grpc-Timeout %s and X-Timeout %s: %v left, want at most 7 minutes", c.gRPC, c.own, left)
		}
	}
}

func TestRequestWithoutTimeIsAnsweredWith504(t *testing.T) {
	t.Parallel()
	s := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("the handler runs") }, []interceptors.ServerOption{interceptors.WithFloor(time.Hour)})
	request := newRequest(t, http.MethodGet, s.URL, "")
	request.Header.Set("Grpc-Timeout", "1S")
	wantProblem(t, do(t, http.DefaultTransport, request), http.StatusGatewayTimeout, interceptors.ReasonDeadlineUnreachable)
}

func TestAnEdgeTrustsNothingThatCallersSend(t *testing.T) {
	t.Parallel()
	s := edge(t, func(w http.ResponseWriter, r *http.Request) {
		a, _ := budget.FromContext(r.Context())
		_, _ = fmt.Fprint(w, a.Free())
	}, nil)
	request := newRequest(t, http.MethodGet, s.URL, "")
	request.Header.Set("Hop-Context", "1;b=500;a=1")
	if r := do(t, http.DefaultTransport, request); r.body != "0" { // a root gets its tokens at its first call
		t.Errorf("the request has %s tokens of its caller", r.body)
	}
}

func TestResponsesArriveAsWritten(t *testing.T) {
	t.Parallel()
	big := make([]byte, 100<<10)
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		status  int
		length  int
	}{
		"nothing":    {func(http.ResponseWriter, *http.Request) {}, 200, 0},
		"not found":  {func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, 404, 19},
		"an error":   {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusInternalServerError) }, 500, 7},
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, 204, 0},
		"large":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(big) }, 200, len(big)},
		"large failure": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write(big)
		}, 503, len(big)},
		"in parts": {func(w http.ResponseWriter, _ *http.Request) {
			for range 10 {
				_, _ = w.Write(big[:5000])
				_ = http.NewResponseController(w).Flush()
			}
		}, 200, 50000},
		"a second status": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			w.WriteHeader(http.StatusBadGateway)
		}, 201, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X-Own", "yes"); c.handler(w, r) }, nil)
			r := get(t, http.DefaultTransport, s.URL)
			if r.status != c.status || len(r.body) != c.length || r.header.Get("X-Own") != "yes" {
				t.Errorf("status %d with %d bytes and header %v, want %d with %d", r.status, len(r.body), r.header, c.status, c.length)
			}
		})
	}
}

func TestHandlerThatPanicsEndsTheConnectionAsWithoutHopbound(t *testing.T) {
	t.Parallel()
	s := serve(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, nil)
	response, err := (&http.Client{}).Do(newRequest(t, http.MethodGet, s.URL, ""))
	if err == nil {
		_ = response.Body.Close()
		t.Errorf("answered with %s", response.Status)
	}
}

func TestConnectionCanBeHijacked(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, buffer, err := w.(http.Hijacker).Hijack() //nolint:errcheck // as libraries for WebSocket do
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = buffer.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\ntaken")
		_ = buffer.Flush()
		_ = conn.Close()
	}, nil)
	if r := get(t, http.DefaultTransport, s.URL); r.body != "taken" {
		t.Errorf("body %q", r.body)
	}
}

// hijackable is a writer whose connection can be hijacked.
type hijackable struct {
	*httptest.ResponseRecorder
	written bool
}

func (*hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, nil }

func (h *hijackable) WriteHeader(int) { h.written = true }

func TestHijackedConnectionIsNotAnswered(t *testing.T) {
	t.Parallel()
	reader, metered := harness.Metered()
	ctx, leave := context.WithCancel(t.Context())
	h, err := hophttp.NewHandler(harness.NewServer(t, metered), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, _, err := w.(http.Hijacker).Hijack(); err != nil { //nolint:errcheck // as libraries for WebSocket do
			t.Error(err)
		}
		leave() // as a connection does that ends later
	}))
	if err != nil {
		t.Fatal(err)
	}
	w := &hijackable{ResponseRecorder: httptest.NewRecorder()}
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	if metrics := harness.Collected(t, reader); w.written || !strings.Contains(metrics, "grpc.status=OK") {
		t.Errorf("answered: %v, metrics\n%s", w.written, metrics)
	}
}

func TestHandlersSetTheDeadlinesOfTheirConnection(t *testing.T) {
	t.Parallel()
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Error(err)
		}
	}, nil)
	get(t, http.DefaultTransport, s.URL)
}

func TestLargeResponseIsSentWhileItIsWritten(t *testing.T) {
	t.Parallel()
	const held = 16 << 10
	w := httptest.NewRecorder()
	h, err := hophttp.NewHandler(harness.NewServer(t), http.HandlerFunc(func(inner http.ResponseWriter, _ *http.Request) {
		for _, c := range []struct{ part, sent int }{{held, 0}, {1, held + 1}, {5, held + 6}} {
			if _, err := inner.Write(make([]byte, c.part)); err != nil || w.Body.Len() != c.sent {
				t.Errorf("%d bytes are sent, error %v, want %d", w.Body.Len(), err, c.sent)
			}
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
}

// Libraries for WebSocket and proxies for CONNECT write the header first, and net/http then sends it.
func TestHeaderIsSentBeforeTheConnectionIsHijacked(t *testing.T) {
	t.Parallel()
	for _, code := range []int{http.StatusSwitchingProtocols, http.StatusOK} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Upgrade", "own")
			w.WriteHeader(code)
			conn, _, err := w.(http.Hijacker).Hijack() //nolint:errcheck // as libraries for WebSocket do
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = fmt.Fprint(conn, "taken")
			_ = conn.Close()
		}, nil)
		conn, err := net.Dial("tcp", s.Listener.Addr().String()) //nolint:noctx // it takes no time
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), fmt.Sprint("HTTP/1.1 ", code)) || !strings.Contains(string(answer), "Upgrade: own") || !strings.HasSuffix(string(answer), "taken") {
			t.Errorf("status %d: answer %q, error %v", code, answer, err)
		}
		_ = conn.Close()
	}
}

func TestInvalidOptionsAreErrors(t *testing.T) {
	t.Parallel()
	server, next := harness.NewServer(t), http.NotFoundHandler()
	for name, build := range map[string]func() (http.Handler, error){
		"no server":       func() (http.Handler, error) { return hophttp.NewHandler(nil, next) },
		"no handler":      func() (http.Handler, error) { return hophttp.NewHandler(server, nil) },
		"a nil option":    func() (http.Handler, error) { return hophttp.NewHandler(server, next, nil) },
		"no tenant":       func() (http.Handler, error) { return hophttp.NewHandler(server, next, hophttp.Tenant(nil)) },
		"no header":       func() (http.Handler, error) { return hophttp.NewHandler(server, next, hophttp.TimeoutHeader("", 1)) },
		"no longest time": func() (http.Handler, error) { return hophttp.NewHandler(server, next, hophttp.TimeoutHeader("X", 0)) },
		"two headers": func() (http.Handler, error) {
			return hophttp.NewHandler(server, next, hophttp.TimeoutHeader("X", 1), hophttp.TimeoutHeader("Y", 1))
		},
		"the header of gRPC": func() (http.Handler, error) {
			return hophttp.NewHandler(server, next, hophttp.TimeoutHeader("grpc-timeout", 1))
		},
		"no body": func() (http.Handler, error) { return hophttp.NewHandler(server, next, hophttp.MaxBody(0)) },
	} {
		if h, err := build(); err == nil || h != nil {
			t.Errorf("%s: handler %v, error %v", name, h, err)
		}
	}
}
