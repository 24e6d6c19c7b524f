package http_test

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
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
