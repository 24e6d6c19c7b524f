package http_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc/status"
)

// fast is a transport with short pauses.
func fast(t *testing.T, opts ...interceptors.ClientOption) http.RoundTripper {
	t.Helper()
	return hophttp.NewTransport(harness.NewClient(t, append([]interceptors.ClientOption{interceptors.WithPolicy(shortPauses{})}, opts...)...), nil)
}

// shortPauses retries what is declared safe, without pauses worth mentioning.
type shortPauses struct{}

func (shortPauses) ForMethod(fullMethod string) interceptors.Policy {
	p := interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: 1, Max: 1}}}
	switch fullMethod {
	case "/hopbound.v1.HTTPService/Post", "/hopbound.v1.HTTPService/Patch", "/hopbound.v1.HTTPService/Other", testv1.TestService_Write_FullMethodName:
		p.Retry = nil // a written policy would declare them safe to repeat
	}
	return p
}

// plain serves a handler without Hopbound.
func plain(t *testing.T, handle http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s.URL
}

func TestRequestsAreRetriedIfTheyAreSafe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, key string
		status      int
		attempts    int64
	}{
		{http.MethodGet, "", 503, 3},
		{http.MethodGet, "", 502, 3},
		{http.MethodGet, "", 500, 1},
		{http.MethodGet, "", 429, 1},
		{http.MethodGet, "", 504, 1},
		{http.MethodGet, "", 404, 1},
		{http.MethodHead, "", 503, 3},
		{http.MethodPut, "", 503, 3},
		{http.MethodDelete, "", 503, 3},
		{http.MethodPost, "", 503, 1},
		{http.MethodPost, "k", 503, 3},
		{http.MethodPatch, "", 503, 1},
		{"PROPFIND", "", 503, 1},
	} {
		var attempts atomic.Int64
		var keys, bodies []string
		url := plain(t, func(w http.ResponseWriter, r *http.Request) {
			attempts.Add(1)
			body, _ := io.ReadAll(r.Body)
			keys, bodies = append(keys, r.Header.Get("Idempotency-Key")), append(bodies, string(body))
			w.WriteHeader(c.status)
			_, _ = fmt.Fprint(w, "answer ", attempts.Load())
		})
		request := newRequest(t, c.method, url, "the body")
		if c.key != "" {
			request.Header.Set("Idempotency-Key", c.key)
		}
		r := do(t, fast(t), request)
		name := fmt.Sprintf("%s %q, %d", c.method, c.key, c.status)
		if attempts.Load() != c.attempts || r.status != c.status {
			t.Errorf("%s: %d attempts and status %d, want %d", name, attempts.Load(), r.status, c.attempts)
		}
		if c.method != http.MethodHead && r.body != fmt.Sprint("answer ", c.attempts) {
			t.Errorf("%s: body %q, want that of the last attempt", name, r.body)
		}
		for i := range bodies {
			if bodies[i] != "the body" || keys[i] != c.key {
				t.Errorf("%s: attempt %d has body %q and key %q", name, i+1, bodies[i], keys[i])
			}
		}
	}
}

func TestRetriedRequestSucceeds(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	url := plain(t, func(w http.ResponseWriter, r *http.Request) {
		if n := attempts.Add(1); n < 3 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		} else if r.Header.Get("Grpc-Previous-Rpc-Attempts") != "2" || !strings.Contains(r.Header.Get("Hop-Context"), ";a=3") {
			t.Errorf("the third attempt has header %v", r.Header)
		}
	})
	if r := get(t, fast(t), url); r.status != http.StatusOK || attempts.Load() != 3 {
		t.Errorf("status %d after %d attempts", r.status, attempts.Load())
	}
}

func TestBodyThatCannotBeReadAgainIsSentOnce(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	url := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		attempts.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, io.MultiReader(strings.NewReader("once")))
	if err != nil {
		t.Fatal(err)
	}
	if r := do(t, fast(t), request); r.status != http.StatusServiceUnavailable || attempts.Load() != 1 {
		t.Errorf("status %d after %d attempts, want one", r.status, attempts.Load())
	}
}

func TestRefusedConnectionIsRetriedForAllMethods(t *testing.T) {
	t.Parallel()
	dials := 0
	base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		dials++
		return nil, &net.OpError{Op: "dial", Err: errors.New("refused")}
	}}
	b := harness.FixedBudget()
	transport := hophttp.NewTransport(harness.NewClient(t, interceptors.WithPolicy(shortPauses{}), interceptors.WithBudget(b)), base)
	_, err := transport.RoundTrip(newRequest(t, http.MethodPost, "http://orders.test/", "body")) //nolint:bodyclose // there is none
	op := (*net.OpError)(nil)
	if !errors.As(err, &op) || dials != 3 {
		t.Errorf("error %v after %d dials, want the network's error after three", err, dials)
	}
	if left := b.Balance("http://orders.test"); left != 10 {
		t.Errorf("%v tokens of ten are left, want all: no server had work", left)
	}
}

func TestServerThatAsksForAPauseGetsIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header, value string
		pause         time.Duration
	}{
		"seconds":       {"Retry-After", "7", 7 * time.Second},
		"a date":        {"Retry-After", "in a minute", time.Minute},
		"gRPC pushback": {"Grpc-Retry-Pushback-Ms", "1500", 1500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var times []time.Time
				base := roundTripper(func(*http.Request) (*http.Response, error) {
					times = append(times, time.Now())
					value := c.value
					if c.value == "in a minute" {
						value = time.Now().Add(time.Minute).UTC().Format(http.TimeFormat)
					}
					return &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{c.header: {value}}, Body: http.NoBody}, nil
				})
				r := get(t, hophttp.NewTransport(harness.NewClient(t), base), "http://orders.test/")
				if r.status != 503 || len(times) != 3 || times[1].Sub(times[0]) != c.pause {
					t.Errorf("status %d, attempts at %v, want a pause of %v", r.status, times, c.pause)
				}
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestBodyIsReadableAfterTheAttempt(t *testing.T) {
	t.Parallel()
	more := make(chan struct{})
	url := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "first ")
		w.(http.Flusher).Flush() //nolint:errcheck // it is one
		<-more
		_, _ = fmt.Fprint(w, "second")
	})
	transport := hophttp.NewTransport(harness.NewClient(t, harness.Policy(interceptors.Policy{Timeout: time.Minute, AttemptTimeout: time.Minute})), nil)
	response, err := transport.RoundTrip(newRequest(t, http.MethodGet, url, ""))
	if err != nil {
		t.Fatal(err)
	}
	close(more)
	body, err := io.ReadAll(response.Body)
	if string(body) != "first second" || err != nil {
		t.Errorf("read %q, error %v", body, err)
	}
	_ = response.Body.Close()
}

func TestCancelledRequestReturnsTheContextsError(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	var attempts atomic.Int64
	url := plain(t, func(_ http.ResponseWriter, r *http.Request) { attempts.Add(1); cancel(); <-r.Context().Done() })
	_, err := fast(t).RoundTrip(newRequest(t, http.MethodGet, url, "").WithContext(ctx)) //nolint:bodyclose // there is none
	if !errors.Is(err, context.Canceled) || attempts.Load() != 1 {
		t.Errorf("error %v after %d attempts", err, attempts.Load())
	}
}

// A chain of HTTP and gRPC is one call tree: the leaf's failure is retried by the nearest hop only.
func TestChainOfHTTPAndGRPCIsOneCallTree(t *testing.T) {
	t.Parallel()
	const requests = 20
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	settings := func() interceptors.ClientOption {
		return interceptors.WithBudget(budget.New(budget.PerRequest(10), budget.Burst(1000), budget.Ratio(0)))
	}
	client := func() *interceptors.Client {
		return harness.NewClient(t, interceptors.WithPolicy(shortPauses{}), settings())
	}
	last := harness.Idempotent(harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...).Dial(client().DialOptions()...))
	third := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if err := last(r.Context()); err != nil {
			hophttp.WriteError(w, err)
		}
	}, nil)
	viaHTTP := hophttp.NewTransport(client(), nil)
	second := serve(t, func(w http.ResponseWriter, r *http.Request) {
		response, err := viaHTTP.RoundTrip(newRequest(t, http.MethodGet, third.URL, "").WithContext(r.Context()))
		if err != nil {
			hophttp.WriteError(w, err)
			return
		}
		defer func() { _ = response.Body.Close() }()
		w.WriteHeader(response.StatusCode)
	}, nil)
	first := hophttp.NewTransport(client(), nil)
	for range requests {
		if r := get(t, first, second.URL); r.status != http.StatusServiceUnavailable {
			t.Errorf("status %d", r.status)
		}
	}
	if leaf.Calls.Load() != 3*requests {
		t.Errorf("%d calls at the leaf for %d requests, want three for each: only the nearest hop retries", leaf.Calls.Load(), requests)
	}
}

// Tokens that are used below a hop over HTTP are charged to its caller.
func TestTokensAreLentAndReportedOverHTTP(t *testing.T) {
	t.Parallel()
	for name, flush := range map[string]bool{"a response that is held back": false, "a response that is sent early": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &harness.Counter{Fail: harness.FailFirst(1)}
			client := harness.NewClient(t, interceptors.WithPolicy(shortPauses{}))
			last := harness.Idempotent(harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...).Dial(client.DialOptions()...))
			lent := 0
			hop := serve(t, func(w http.ResponseWriter, r *http.Request) {
				a, _ := budget.FromContext(r.Context())
				lent = a.Free()
				if err := last(r.Context()); err != nil {
					t.Error(err)
				}
				if flush {
					w.(http.Flusher).Flush() //nolint:errcheck // it is one
				}
			}, nil)
			ctx, end := budget.NewRoot(t.Context(), budget.New(budget.PerRequest(10)))
			defer end(true)
			do(t, fast(t), newRequest(t, http.MethodGet, hop.URL, "").WithContext(ctx))
			a, _ := budget.FromContext(ctx)
			want := 1
			if flush {
				want = 2 // and the one that the hop has kept for what follows
			}
			if a.Used() != want || lent != 5 {
				t.Errorf("%d tokens of %d lent were charged, want %d of 5", a.Used(), lent, want)
			}
		})
	}
}

// A hop that runs under a key gives its requests child keys.
func TestChildKeysCrossHTTP(t *testing.T) {
	t.Parallel()
	var keys []string
	leaf := serve(t, func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(keys) == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}, []interceptors.ServerOption{interceptors.WithIdempotency(&durable{idempotency.NewMemory()})}, hophttp.SharedKeys())
	transport := fast(t)
	hop := serve(t, func(w http.ResponseWriter, r *http.Request) {
		request := newRequest(t, http.MethodPost, leaf.URL, "body").WithContext(idempotency.WithStep(r.Context(), "charge"))
		response, err := transport.RoundTrip(request)
		if err != nil {
			hophttp.WriteError(w, err)
			return
		}
		_ = response.Body.Close()
		w.WriteHeader(response.StatusCode)
	}, nil, hophttp.SharedKeys())
	if r := post(t, http.DefaultTransport, hop.URL, "order-1", ""); r.status != http.StatusOK {
		t.Errorf("status %d: the leaf says that it stores outcomes, so its failure is retried", r.status)
	}
	post(t, http.DefaultTransport, hop.URL, "order-1", "")
	if len(keys) != 2 || keys[0] == "" || keys[0] != keys[1] || keys[0] == "order-1" {
		t.Errorf("the leaf ran under the keys %q, want the same child key twice, and a replay for the repeated request", keys)
	}
}

// durable is a memory store that says that it outlives the process.
type durable struct{ *idempotency.Memory }

func (*durable) Volatile() bool { return false }

func TestObservedRequestsAreMadeOnce(t *testing.T) {
	t.Parallel()
	var attempts atomic.Int64
	url := plain(t, func(w http.ResponseWriter, r *http.Request) {
		attempts.Add(1)
		if strings.Contains(r.Header.Get("Hop-Context"), ";b=") {
			t.Error("tokens were lent")
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	if r := get(t, fast(t, interceptors.WithMode(interceptors.Observe)), url); r.status != 503 || attempts.Load() != 1 {
		t.Errorf("status %d after %d attempts", r.status, attempts.Load())
	}
}

func TestErrorOfHopboundIsAStatus(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err := fast(t).RoundTrip(newRequest(t, http.MethodGet, "http://orders.test/", "").WithContext(ctx)) //nolint:bodyclose // there is none
	if harness.Reason(err) != interceptors.ReasonDeadlineExpired {
		t.Errorf("error %v, code %v", err, status.Code(err))
	}
}
