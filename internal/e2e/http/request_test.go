package http_test

import (
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
)

// The service behind trusts the edge. If it received the key, one unknown caller could read the response to another.
func TestKeyOfAnUnknownCallerIsNotForwarded(t *testing.T) {
	t.Parallel()
	var runs atomic.Int64
	store := interceptors.WithIdempotency(idempotency.NewMemory())
	behind := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, runs.Add(1)) }, []interceptors.ServerOption{store}, hophttp.SharedKeys())
	for name, transport := range map[string]http.RoundTripper{"with Hopbound": fast(t), "without": http.DefaultTransport} {
		s := edge(t, proxyTo(t, behind.URL, transport), nil, hophttp.Tenant(func(*http.Request) string { return "" }))
		if a, b := post(t, http.DefaultTransport, s.URL, "k", ""), post(t, http.DefaultTransport, s.URL, "k", ""); a.body == b.body {
			t.Errorf("%s: two unknown callers have received %q and %q", name, a.body, b.body)
		}
	}
}

func TestFormIsThereWhenAHandlerRunsAgain(t *testing.T) {
	t.Parallel()
	store := interceptors.WithIdempotency(&conflicting{TakeoverStore: harness.TakeoverStore{Memory: idempotency.NewMemory()}}, idempotency.Reruns(3))
	runs := 0
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		runs++
		_, _ = fmt.Fprint(w, "paid ", r.FormValue("amount"))
	}, []interceptors.ServerOption{store}, hophttp.SharedKeys())
	var body strings.Builder
	form := multipart.NewWriter(&body)
	_ = form.WriteField("amount", "5 EUR")
	_ = form.Close()
	request := newRequest(t, http.MethodPost, s.URL, body.String())
	request.Header.Set("Content-Type", form.FormDataContentType())
	request.Header.Set("Idempotency-Key", "k")
	if r := do(t, http.DefaultTransport, request); runs != 2 || r.body != "paid 5 EUR" {
		t.Errorf("after %d runs: answer %d %q", runs, r.status, r.body)
	}
}

// Middleware for metrics and logs reads the pattern after the request.
func TestMiddlewareSeesThePatternOfTheMuxInside(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders/{id}", func(http.ResponseWriter, *http.Request) {})
	h, err := hophttp.NewHandler(harness.NewServer(t), mux)
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/orders/7", nil)
	h.ServeHTTP(httptest.NewRecorder(), request)
	if request.Pattern != "GET /orders/{id}" {
		t.Errorf("the pattern is %q", request.Pattern)
	}
}

// Requests that are made in code, and not by a server, may have no body and no header.
func TestRequestsMayHaveNoBodyAndNoHeader(t *testing.T) {
	t.Parallel()
	h := stored(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || len(body) > 0 {
			t.Errorf("body %q, error %v", body, err)
		}
		w.WriteHeader(http.StatusAccepted)
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/"}, Header: http.Header{"Idempotency-Key": {"k"}}})
	if w.Code != http.StatusAccepted {
		t.Errorf("answer %d %s", w.Code, w.Body)
	}
	request := newRequest(t, http.MethodGet, plain(t, func(http.ResponseWriter, *http.Request) {}), "")
	request.Header = nil
	response, err := fast(t).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
}

// Only a server that stores the outcome compares the body. Another one must neither limit nor delay it.
func TestBodyOfAKeyedRequestIsReadOnlyForAStore(t *testing.T) {
	t.Parallel()
	const limit = 10
	store := interceptors.WithIdempotency(idempotency.NewMemory())
	for name, c := range map[string]struct {
		method  string
		options []interceptors.ServerOption
		status  int
	}{
		"with a store":                       {http.MethodPost, []interceptors.ServerOption{store}, http.StatusRequestEntityTooLarge},
		"with a store, no side effects":      {http.MethodGet, []interceptors.ServerOption{store}, http.StatusOK},
		"with a store that is only observed": {http.MethodPost, []interceptors.ServerOption{store, interceptors.WithMode(interceptors.Observe)}, http.StatusOK},
		"without a store":                    {http.MethodPost, nil, http.StatusOK},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(w, r.Body); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}, c.options, hophttp.SharedKeys(), hophttp.MaxBody(limit))
		for n, want := range map[int]int{limit: http.StatusOK, limit + 1: c.status} {
			body := strings.Repeat("x", n)
			request := newRequest(t, c.method, s.URL, body)
			request.Header.Set("Idempotency-Key", strconv.Itoa(n))
			if r := do(t, http.DefaultTransport, request); r.status != want || want == http.StatusOK && r.body != body {
				t.Errorf("%s: a body of %d bytes is answered with %d %q, want %d", name, n, r.status, r.body, want)
			}
		}
	}
}
