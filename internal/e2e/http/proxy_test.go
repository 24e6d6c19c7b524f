package http_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
)

// proxyTo returns a reverse proxy that makes its requests through a transport.
func proxyTo(t *testing.T, address string, transport http.RoundTripper) http.HandlerFunc {
	t.Helper()
	target, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	return proxy.ServeHTTP
}

// reporting answers as a service with Hopbound does that has used a token.
func reporting(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Hop-Report", "1;u=7;e=1000")
	_, _ = fmt.Fprint(w, "reported")
}

func TestProxyDoesNotForwardTheReportsOfTheServicesBehindIt(t *testing.T) {
	t.Parallel()
	store := interceptors.WithIdempotency(idempotency.NewMemory())
	s := serve(t, proxyTo(t, plain(t, reporting), http.DefaultTransport), []interceptors.ServerOption{store}, hophttp.SharedKeys())
	for name, key := range map[string]string{"without a key": "", "stored": "k", "replayed": "k"} {
		for _, hop := range []string{"", "1;b=5;a=1"} {
			request := newRequest(t, http.MethodPost, s.URL, "")
			if hop != "" {
				request.Header.Set("Hop-Context", hop)
			}
			if key != "" {
				request.Header.Set("Idempotency-Key", key)
			}
			r := do(t, http.DefaultTransport, request)
			if report := r.header.Get("Hop-Report"); r.body != "reported" || strings.Contains(report, "u=7") || hop == "" && report != "" {
				t.Errorf("%s, hop-context %q: body %q and report %q", name, hop, r.body, report)
			}
		}
	}
}

func TestProxyDoesNotForwardTheHeadersOfItsCallersHop(t *testing.T) {
	t.Parallel()
	received := make(chan http.Header, 1)
	behind := plain(t, func(_ http.ResponseWriter, r *http.Request) { received <- r.Header })
	s := serve(t, proxyTo(t, behind, fast(t)), nil, hophttp.SharedKeys())
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		request := newRequest(t, method, s.URL, "")
		request.Header.Set("Hop-Context", "1;b=500;a=9")
		request.Header.Set("Grpc-Previous-Rpc-Attempts", "8")
		request.Header.Set("Grpc-Timeout", "7M")
		request.Header.Set("Idempotency-Key", "parent")
		do(t, http.DefaultTransport, request)
		h := <-received
		if len(h["Hop-Context"]) != 1 || !strings.Contains(h.Get("Hop-Context"), ";a=1") || h.Get("Grpc-Previous-Rpc-Attempts") != "" || h.Get("Grpc-Timeout") == "7M" || h.Get("Idempotency-Key") == "parent" {
			t.Errorf("%s: the service behind the proxy receives %v", method, h)
		}
	}
}

func TestProxyForwardsInformationalResponsesAndTrailers(t *testing.T) {
	t.Parallel()
	behind := plain(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "Announced")
		_, _ = fmt.Fprint(w, "body")
		w.Header().Set("Announced", "yes")
		w.Header().Set(http.TrailerPrefix+"Unannounced", "yes")
	})
	store := interceptors.WithIdempotency(idempotency.NewMemory())
	s := serve(t, proxyTo(t, behind, fast(t)), []interceptors.ServerOption{store}, hophttp.SharedKeys())
	for _, key := range []string{"", "k", "k"} {
		request := newRequest(t, http.MethodPost, s.URL, "")
		if key != "" {
			request.Header.Set("Idempotency-Key", key)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || string(body) != "body" {
			t.Errorf("key %q: status %d and body %q, error %v", key, response.StatusCode, body, err)
		}
		if response.Trailer.Get("Announced") != "yes" || response.Trailer.Get("Unannounced") != "yes" {
			t.Errorf("key %q: trailer %v, header %v", key, response.Trailer, response.Header)
		}
	}
}

// Two transports of Hopbound, one above the other, are one hop, whose callee receives its tokens.
func TestTransportThatIsInstalledTwiceLendsTokens(t *testing.T) {
	t.Parallel()
	received := make(chan http.Header, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { received <- r.Header }))
	defer s.Close()
	client := harness.NewClient(t, interceptors.WithPolicy(shortPauses{}))
	twice := hophttp.NewTransport(client, hophttp.NewTransport(client, http.DefaultTransport))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	do(t, twice, newRequest(t, http.MethodGet, s.URL, "").WithContext(ctx))
	if h := <-received; !strings.Contains(h.Get("Hop-Context"), ";b=") {
		t.Errorf("the server receives %v", h)
	}
}

// net/http/httputil answers every error with 502, which callers retry.
func TestProxyWithWriteErrorAnswersWithTheErrorOfHopbound(t *testing.T) {
	t.Parallel()
	target := &url.URL{Scheme: "http", Host: "a.test"}
	proxy := &httputil.ReverseProxy{
		Transport:    hophttp.NewTransport(harness.NewClient(t, harness.Policy(interceptors.Policy{Timeout: 1})), nil),
		Rewrite:      func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) { hophttp.WriteError(w, err) },
	}
	r := get(t, http.DefaultTransport, serve(t, proxy.ServeHTTP, nil).URL)
	if r.status != http.StatusGatewayTimeout {
		t.Errorf("answer %d %s", r.status, r.body)
	}
}
