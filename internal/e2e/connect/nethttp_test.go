package connect_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/hopconnect"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

// net/http repeats a POST that has a key if its connection breaks. A child key alone does not make a call safe to repeat.
func TestNetHTTPDoesNotRepeatAWriteBecauseOfItsChildKey(t *testing.T) {
	t.Parallel()
	for _, forwarded := range []string{"", "k"} {
		var writes atomic.Int64
		var key atomic.Value
		s := serveHTTP1(t, route{read, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/proto")
		})}, route{write, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			writes.Add(1)
			key.Store(r.Header.Get("Idempotency-Key"))
			panic(http.ErrAbortHandler)
		})})
		ctx := idempotency.WithRun(t.Context(), idempotency.HandlerRun{ID: idempotency.NewID("", "/a/B", "k"), Key: "k"})
		opts := []connect.ClientOption{connect.WithInterceptors(hopconnect.NewClientInterceptor(harness.NewClient(t)))}
		if _, err := connect.NewClient[testv1.ReadRequest, testv1.ReadResponse](s.Client(), s.URL+read, opts...).
			CallUnary(t.Context(), connect.NewRequest(&testv1.ReadRequest{})); err != nil { // so that the connection is one that was used before
			t.Fatal(err)
		}
		request := connect.NewRequest(&testv1.WriteRequest{})
		if forwarded != "" {
			request.Header().Set("Idempotency-Key", forwarded)
		}
		_, err := connect.NewClient[testv1.WriteRequest, testv1.WriteResponse](s.Client(), s.URL+write, opts...).CallUnary(ctx, request)
		if err == nil || writes.Load() != 1 || key.Load() == "" || key.Load() == "k" {
			t.Errorf("forwarded key %q: error %v after %d calls with the key %v, want one call with a child key", forwarded, err, writes.Load(), key.Load())
		}
	}
}
