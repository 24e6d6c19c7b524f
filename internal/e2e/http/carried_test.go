package http_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// named returns the spans of one kind.
func named(spans []sdktrace.ReadOnlySpan, kind trace.SpanKind) (found []sdktrace.ReadOnlySpan) {
	for _, s := range spans {
		if s.SpanKind() == kind {
			found = append(found, s)
		}
	}
	return found
}

func TestTraceCrossesHTTP(t *testing.T) {
	t.Parallel()
	recorder, traced := harness.Traced()
	propagator := interceptors.WithPropagators(propagation.TraceContext{})
	s := serve(t, func(http.ResponseWriter, *http.Request) {}, []interceptors.ServerOption{traced, propagator})
	if r := get(t, fast(t, traced, propagator), s.URL); r.status != http.StatusOK {
		t.Fatal(r.status)
	}
	clients, servers := named(recorder.Ended(), trace.SpanKindClient), named(recorder.Ended(), trace.SpanKindServer)
	if len(clients) != 1 || len(servers) != 1 || servers[0].Parent().SpanID() != clients[0].SpanContext().SpanID() ||
		servers[0].SpanContext().TraceID() != clients[0].SpanContext().TraceID() {
		t.Errorf("%d spans of attempts and %d of servers, which are not parent and child:\n%s", len(clients), len(servers), harness.Tree(recorder.Ended()))
	}
}

func TestEdgeBeginsATraceWithALinkToTheCallers(t *testing.T) {
	t.Parallel()
	recorder, traced := harness.Traced()
	s := edge(t, func(http.ResponseWriter, *http.Request) {}, []interceptors.ServerOption{traced, interceptors.WithPropagators(propagation.TraceContext{})})
	request := newRequest(t, http.MethodGet, s.URL, "")
	request.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	do(t, http.DefaultTransport, request)
	servers := named(recorder.Ended(), trace.SpanKindServer)
	if len(servers) != 1 || servers[0].Parent().IsValid() || len(servers[0].Links()) != 1 ||
		servers[0].Links()[0].SpanContext.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("spans of the edge: %v", servers)
	}
}

// A handler that forwards its incoming metadata to a gRPC call must not forward credentials.
func TestCredentialsAreNotMetadata(t *testing.T) {
	t.Parallel()
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		md, _ := metadata.FromIncomingContext(r.Context())
		for _, key := range []string{"authorization", "proxy-authorization", "cookie"} {
			if len(md[key]) > 0 {
				t.Errorf("the metadata has %s", key)
			}
		}
		if len(md["x-own"]) != 1 || r.Header.Get("Authorization") == "" {
			t.Errorf("metadata %v and header %v", md, r.Header)
		}
	}, nil)
	request := newRequest(t, http.MethodGet, s.URL, "")
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie", "X-Own"} {
		request.Header.Set(name, "secret")
	}
	do(t, http.DefaultTransport, request)
}

func TestLongestDeadlineBoundsWhatCallersAskFor(t *testing.T) {
	t.Parallel()
	s := edge(t, func(_ http.ResponseWriter, r *http.Request) {
		if left, ok := deadline.Remaining(r.Context()); !ok || left > time.Minute {
			t.Errorf("%v left, %v", left, ok)
		}
	}, []interceptors.ServerOption{interceptors.WithMaxDeadline(time.Minute)})
	request := newRequest(t, http.MethodGet, s.URL, "")
	request.Header.Set("Grpc-Timeout", "7H")
	do(t, http.DefaultTransport, request)
}
