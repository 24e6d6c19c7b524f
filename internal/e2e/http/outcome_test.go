package http_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// A server that only observes answers as without Hopbound.
func TestObservedHandlerThatGivesUpIsAnsweredAsWithoutHopbound(t *testing.T) {
	t.Parallel()
	ctx, leave := context.WithCancel(t.Context())
	h, err := hophttp.NewHandler(harness.NewServer(t, interceptors.WithMode(interceptors.Observe)), http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Idempotency-Key") != "k" {
			t.Error("the handler does not see the key")
		}
		leave()
		<-r.Context().Done()
	}))
	if err != nil {
		t.Fatal(err)
	}
	if w := record(h, ctx); w.Code != http.StatusOK || w.Body.Len() > 0 {
		t.Errorf("answer %d %q", w.Code, w.Body)
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

// compressing is a writer of middleware for compression.
type compressing struct {
	http.ResponseWriter
	to *gzip.Writer
}

func (c *compressing) WriteHeader(status int) {
	c.Header().Set("Content-Encoding", "gzip")
	c.ResponseWriter.WriteHeader(status)
}

func (c *compressing) Write(part []byte) (int, error) { return c.to.Write(part) }

// unwrapping is one that http.ResponseController knows how to unwrap.
type unwrapping struct{ *compressing }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

func TestProblemThatIsCompressedInsideIsAFailure(t *testing.T) {
	t.Parallel()
	for name, unwraps := range map[string]bool{"with Unwrap": true, "without": false} {
		runs := 0
		h := stored(t, func(w http.ResponseWriter, _ *http.Request) {
			runs++
			inner := &compressing{w, gzip.NewWriter(w)}
			defer func() { _ = inner.to.Close() }()
			w = inner
			if unwraps {
				w = unwrapping{inner}
			}
			hophttp.WriteError(w, status.Error(codes.Aborted, "not now"))
		})
		for run := range 2 {
			if w := record(h, t.Context()); w.Code != http.StatusConflict || runs != run+1 {
				t.Errorf("%s: answer %d after %d runs", name, w.Code, runs)
			}
		}
	}
}

// The reason decides what callers do, even if the body cannot be read.
func TestReasonOfACompressedProblemIsSeen(t *testing.T) {
	t.Parallel()
	reader, metered := harness.Metered()
	h := stored(t, func(w http.ResponseWriter, _ *http.Request) {
		inner := &compressing{w, gzip.NewWriter(w)}
		defer func() { _ = inner.to.Close() }()
		hophttp.WriteError(unwrapping{inner}, interceptors.TryLater(codes.ResourceExhausted, interceptors.ReasonStoreFull, "full", 0))
	}, metered)
	record(h, t.Context())
	if metrics := harness.Collected(t, reader); !strings.Contains(metrics, "RESOURCE_EXHAUSTED") {
		t.Errorf("the server does not count RESOURCE_EXHAUSTED:\n%s", metrics)
	}
}

func TestErrorAfterAResponseChangesNothing(t *testing.T) {
	t.Parallel()
	runs := 0
	h := stored(t, func(w http.ResponseWriter, _ *http.Request) {
		runs++
		w.WriteHeader(http.StatusCreated)
		hophttp.WriteError(w, status.Error(codes.Aborted, "too late"))
	})
	for range 2 {
		if w := record(h, t.Context()); w.Code != http.StatusCreated || runs != 1 {
			t.Errorf("answer %d after %d runs", w.Code, runs)
		}
	}
}
