package interop_test

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/hopconnect"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

// startConnect serves a hop with connect-go, which calls its target over the gRPC protocol, until the test ends.
func startConnect(t testing.TB, s settings) string {
	t.Helper()
	client := harness.NewClient(t, interceptors.WithBudget(s.budget(t)), interceptors.WithPolicy(fastBackoff{}))
	f := &connectForwarder{client: h2c(), intercept: hopconnect.NewClientInterceptor(client)}
	serve := connect.WithInterceptors(hopconnect.NewHandlerInterceptor(harness.NewServer(t)))
	mux := http.NewServeMux()
	handle[testv1.IdempotentRequest, testv1.IdempotentResponse](mux, f, testv1.TestService_Idempotent_FullMethodName, serve)
	handle[testv1.ReadRequest, testv1.ReadResponse](mux, f, testv1.TestService_Read_FullMethodName, serve)
	handle[testv1.WriteRequest, testv1.WriteResponse](mux, f, testv1.TestService_Write_FullMethodName, serve)
	t.Cleanup(f.client.CloseIdleConnections)
	return serveHTTP(t, mux)
}

// connectForwarder is the application of the hop with connect-go.
type connectForwarder struct {
	client    *http.Client
	intercept connect.Interceptor

	mu      sync.Mutex
	clients map[string]any // of connect-go, by address and method
}

func handle[Req, Res any](mux *http.ServeMux, f *connectForwarder, method string, serve connect.HandlerOption) {
	mux.Handle(method, connect.NewUnaryHandler(method, func(ctx context.Context, r *connect.Request[Req]) (*connect.Response[Res], error) {
		return forward[Req, Res](ctx, f, r)
	}, serve))
}

func forward[Req, Res any](ctx context.Context, f *connectForwarder, in *connect.Request[Req]) (*connect.Response[Res], error) {
	next, rest, _ := strings.Cut(in.Header().Get(nextKey), ",")
	url := "http://" + next + in.Spec().Procedure
	f.mu.Lock()
	client, ok := f.clients[url].(*connect.Client[Req, Res])
	if !ok {
		client = connect.NewClient[Req, Res](f.client, url, connect.WithGRPC(), connect.WithInterceptors(f.intercept),
			connect.WithIdempotency(in.Spec().IdempotencyLevel))
		if f.clients == nil {
			f.clients = map[string]any{}
		}
		f.clients[url] = client
	}
	f.mu.Unlock()
	calls, err := strconv.Atoi(in.Header().Get(callsKey))
	if err != nil {
		calls = 1
	}
	var response *connect.Response[Res]
	for range calls {
		request := connect.NewRequest(new(Req))
		request.Header().Set(nextKey, rest)
		if response, err = client.CallUnary(ctx, request); err != nil {
			return nil, err
		}
	}
	return connect.NewResponse(response.Msg), nil
}

// h2c returns a client that speaks HTTP/2 in clear text.
func h2c() *http.Client {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: &protocols}}
}

// serveHTTP serves HTTP/1.1 and HTTP/2 in clear text on a loopback port until the test ends.
func serveHTTP(t testing.TB, handler http.Handler) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: &protocols}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return listener.Addr().String()
}
