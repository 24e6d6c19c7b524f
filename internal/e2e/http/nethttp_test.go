package http_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
)

// crashing serves HTTP/1.1 until the test ends. It answers GET, and closes the connection after a POST.
func crashing(t *testing.T) (url string, posts *atomic.Int64) {
	t.Helper()
	posts = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		posts.Add(1)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(s.Close)
	return s.URL, posts
}

// net/http repeats a POST that has a key if its connection breaks. A child key alone does not make a POST safe to repeat.
func TestNetHTTPDoesNotRepeatAWriteBecauseOfItsChildKey(t *testing.T) {
	t.Parallel()
	url, posts := crashing(t)
	for name, forwarded := range map[string]string{"none": "", "that of the caller, as a proxy does": "k"} {
		posts.Store(0)
		transport := fast(t)
		hop := edge(t, func(_ http.ResponseWriter, r *http.Request) {
			get(t, transport, url) // so that the connection is one that was used before
			request := newRequest(t, http.MethodPost, url, "pay").WithContext(r.Context())
			if forwarded != "" {
				request.Header.Set("Idempotency-Key", forwarded)
			}
			response, err := transport.RoundTrip(request)
			if err == nil {
				_ = response.Body.Close()
				t.Errorf("answer %s", response.Status)
			}
		}, nil, hophttp.SharedKeys())
		post(t, http.DefaultTransport, hop.URL, "k", "")
		if posts.Load() != 1 {
			t.Errorf("forwarded key %s: the POST was made %d times", name, posts.Load())
		}
	}
}

func TestServersReadChildKeysOverHTTP1AndHTTP2(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		got := ""
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			got = fmt.Sprintf("%d%v", r.ProtoMajor, r.Header["Idempotency-Key"])
		}))
		s.EnableHTTP2 = version == 2
		s.StartTLS()
		t.Cleanup(s.Close)
		ctx := idempotency.WithRun(t.Context(), idempotency.HandlerRun{ID: idempotency.NewID("", "/a/B", "k"), Key: "k"})
		transport := hophttp.NewTransport(harness.NewClient(t, interceptors.WithPolicy(shortPauses{})), s.Client().Transport)
		do(t, transport, newRequest(t, http.MethodPost, s.URL, "").WithContext(ctx))
		key, _ := idempotency.ForCall(idempotency.WithRun(t.Context(), idempotency.HandlerRun{ID: idempotency.NewID("", "/a/B", "k"), Key: "k"}), "/hopbound.v1.HTTPService/Post", true)
		if want := fmt.Sprintf("%d[%s]", version, key); got != want {
			t.Errorf("the server has read %s, want %s", got, want)
		}
	}
}
