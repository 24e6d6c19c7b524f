package http_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"pgregory.net/rapid"
)

// tree is a random tree of services that call each other over HTTP, without a network.
type tree struct {
	t               *testing.T
	hops            map[string]http.Handler
	calls, attempts atomic.Int64
}

// RoundTrip makes an attempt at a service of the tree.
func (tr *tree) RoundTrip(r *http.Request) (*http.Response, error) {
	tr.attempts.Add(1)
	w := httptest.NewRecorder()
	tr.hops[r.URL.Host].ServeHTTP(w, r.Clone(context.Background())) //nolint:contextcheck // a server has a context of its own
	return w.Result(), nil
}

// add adds a service with what it calls, and returns its URL.
func (tr *tree) add(t *rapid.T, client http.RoundTripper, depth int) string {
	name := fmt.Sprintf("hop-%d.test", len(tr.hops))
	tr.hops[name] = nil
	var below []string
	if depth > 0 {
		for range rapid.IntRange(0, 3).Draw(t, "calls") {
			below = append(below, tr.add(t, client, depth-1))
		}
	}
	parallel, early := rapid.Bool().Draw(t, "parallel"), rapid.Bool().Draw(t, "early")
	failures := int64(rapid.IntRange(0, 4).Draw(t, "failures"))
	var runs atomic.Int64
	h, err := hophttp.NewHandler(harness.NewServer(tr.t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		failed := runs.Add(1) <= failures
		if early && !failed {
			_ = http.NewResponseController(w).Flush()
		}
		var failures atomic.Int64
		var wg sync.WaitGroup
		call := func(url string) {
			tr.calls.Add(1)
			response, err := client.RoundTrip(newRequest(tr.t, http.MethodGet, url, "").WithContext(r.Context()))
			if err != nil || response.StatusCode != http.StatusOK {
				failures.Add(1)
			}
			if err == nil {
				_ = response.Body.Close()
			}
		}
		for _, url := range below {
			if parallel {
				wg.Go(func() { call(url) })
			} else {
				call(url)
			}
		}
		wg.Wait()
		if failed || failures.Load() > 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	tr.hops[name] = h
	return "http://" + name
}

func TestTreeOfHTTPHopsMakesNoMoreExtraAttemptsThanItsBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		perRequest := rapid.IntRange(0, 8).Draw(rt, "tokens")
		tr := &tree{t: t, hops: map[string]http.Handler{}}
		b := interceptors.WithBudget(harness.FixedBudget(budget.PerRequest(perRequest), budget.Burst(1000)))
		client := hophttp.NewTransport(harness.NewClient(t, b, interceptors.WithPolicy(shortPauses{})), tr)
		url := tr.add(rt, client, 3)
		tr.calls.Add(1)
		response, err := client.RoundTrip(newRequest(t, http.MethodGet, url, ""))
		if err != nil {
			rt.Fatal(err)
		}
		_ = response.Body.Close()
		if extra := tr.attempts.Load() - tr.calls.Load(); extra > int64(perRequest) {
			rt.Errorf("%d extra attempts with %d tokens", extra, perRequest)
		}
	})
}
