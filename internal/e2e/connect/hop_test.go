package connect_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/hopconnect"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
)

// protocol is one of connect-go's.
type protocol struct {
	name    string
	options []connect.ClientOption
}

func protocols() []protocol {
	return []protocol{
		{"connect", nil},
		{"grpc", []connect.ClientOption{connect.WithGRPC()}},
		{"grpc-web", []connect.ClientOption{connect.WithGRPCWeb()}},
	}
}

// everyProtocol runs a test with each protocol.
func everyProtocol(t *testing.T, test func(t *testing.T, p protocol)) {
	t.Helper()
	for _, p := range protocols() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			test(t, p)
		})
	}
}

// route is a handler of a method.
type route struct {
	method  string
	handler http.Handler
}

// serve serves methods over HTTP/2 until the test ends.
func serve(t *testing.T, routes ...route) *httptest.Server {
	t.Helper()
	return start(t, true, routes)
}

// serveHTTP1 serves methods over HTTP/1.1 until the test ends.
func serveHTTP1(t *testing.T, routes ...route) *httptest.Server {
	t.Helper()
	return start(t, false, routes)
}

func start(t *testing.T, http2 bool, routes []route) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	for _, r := range routes {
		mux.Handle(r.method, r.handler)
	}
	s := httptest.NewUnstartedServer(mux)
	s.EnableHTTP2 = http2
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// server returns the option of handlers with Hopbound.
func server(t *testing.T, opts ...interceptors.ServerOption) connect.HandlerOption {
	t.Helper()
	return connect.WithInterceptors(hopconnect.NewHandlerInterceptor(harness.NewServer(t, opts...)))
}

// client returns the options of a client with Hopbound and short pauses.
func client(t *testing.T, p protocol, opts ...interceptors.ClientOption) []connect.ClientOption {
	t.Helper()
	c := harness.NewClient(t, append([]interceptors.ClientOption{harness.FastRetry()}, opts...)...)
	return append([]connect.ClientOption{connect.WithInterceptors(hopconnect.NewClientInterceptor(c))}, p.options...)
}

// unary returns the handler of a unary method that only fails or succeeds.
func unary[Req, Res any](method string, handle func(context.Context) error, opts ...connect.HandlerOption) route {
	return route{method, connect.NewUnaryHandler(method, func(ctx context.Context, _ *connect.Request[Req]) (*connect.Response[Res], error) {
		if err := handle(ctx); err != nil {
			return nil, err
		}
		return connect.NewResponse(new(Res)), nil
	}, opts...)}
}

// trusting returns a client of HTTP/2 that trusts all servers, until the test ends.
func trusting(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// root returns the context of a request, and a function that returns how many tokens it has used.
func root(t *testing.T, b *budget.Budget) (ctx context.Context, used func() int) {
	t.Helper()
	ctx, end := budget.NewRoot(t.Context(), b)
	t.Cleanup(func() { end(true) })
	a, _ := budget.FromContext(ctx)
	return ctx, a.Used
}
