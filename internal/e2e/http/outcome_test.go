package http_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
)

// stored returns a handler with a store, for tests that need no connection.
func stored(t *testing.T, next http.HandlerFunc, options ...interceptors.ServerOption) http.Handler {
	t.Helper()
	options = append(options, interceptors.WithIdempotency(idempotency.NewMemory()))
	h, err := hophttp.NewHandler(harness.NewServer(t, options...), next, hophttp.SharedKeys())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// record serves a POST request with the key k.
func record(h http.Handler, ctx context.Context) *httptest.ResponseRecorder {
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", nil)
	request.Header.Set("Idempotency-Key", "k")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request)
	return w
}

// Many handlers return without writing when their context has ended, because nobody reads the response.
func TestHandlerThatGivesUpWithItsContextHasFailed(t *testing.T) {
	t.Parallel()
	for _, want := range []int{499, http.StatusGatewayTimeout} {
		synctest.Test(t, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			runs := 0
			h := stored(t, func(w http.ResponseWriter, r *http.Request) {
				if runs++; runs > 1 {
					_, _ = fmt.Fprint(w, "paid")
					return
				}
				if want == 499 {
					leave()
				}
				<-r.Context().Done()
			}, interceptors.WithDefaultDeadline(time.Minute))
			if w := record(h, ctx); w.Code != want {
				t.Errorf("answer %d %q, want %d", w.Code, w.Body, want)
			}
			if w := record(h, t.Context()); w.Body.String() != "paid" {
				t.Errorf("the repeated request is answered with %d %q", w.Code, w.Body)
			}
			leave()
		})
	}
}

// net/http ends the connection of such a response. It cannot be sent again either.
func TestResponseOfAnotherLengthThanItSaysIsNotStored(t *testing.T) {
	t.Parallel()
	for method, want := range map[string]int{http.MethodPost: 500, http.MethodHead: 200} {
		url := keyed(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "5")
			if method != http.MethodHead {
				_, _ = fmt.Fprint(w, "pai")
			}
		})
		for range 2 {
			request := newRequest(t, method, url, "")
			request.Header.Set("Idempotency-Key", "k")
			if r := do(t, http.DefaultTransport, request); r.status != want || r.header.Get("Idempotency-Replayed") != "" {
				t.Errorf("%s: answer %d %q, replayed %q", method, r.status, r.body, r.header.Get("Idempotency-Replayed"))
			}
		}
	}
}
