package interceptors_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/logging"
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// A client and a server with all defaults.
func Example() {
	client, err := interceptors.NewClient()
	if err != nil {
		fmt.Println(err)
		return
	}
	creds := grpc.WithTransportCredentials(insecure.NewCredentials())
	conn, err := grpc.NewClient("dns:///orders:443", append(client.DialOptions(), creds)...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()

	server, err := interceptors.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(server.ServerOptions()...)
	defer srv.Stop()
	// Output:
}

// Logs of a handler, and of the interceptors of go-grpc-middleware, tell of the
// call that they belong to.
func ExampleLogFields() {
	logger := slog.New(interceptors.NewLogHandler(slog.NewJSONHandler(os.Stderr, nil)))
	lines := logging.LoggerFunc(func(ctx context.Context, level logging.Level, msg string, fields ...any) {
		slog.Default().Log(ctx, slog.Level(level), msg, fields...)
	})
	server, err := interceptors.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(append(server.ServerOptions(), grpc.ChainUnaryInterceptor(
		logging.UnaryServerInterceptor(lines, logging.WithFieldsFromContext(interceptors.LogFields)),
	))...)
	defer srv.Stop()
	_ = func(ctx context.Context) { logger.InfoContext(ctx, "in a handler") }
	// Output:
}

// Spans and metrics go to the providers that main has set up with an OpenTelemetry SDK.
// Give the same providers to the clients and the servers of a process.
func ExampleWithTracerProvider() {
	tracers, meters := otel.GetTracerProvider(), otel.GetMeterProvider()
	client, err := interceptors.NewClient(interceptors.WithTracerProvider(tracers), interceptors.WithMeterProvider(meters))
	if err != nil {
		fmt.Println(err)
		return
	}
	server, err := interceptors.NewServer(interceptors.WithTracerProvider(tracers), interceptors.WithMeterProvider(meters))
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = client, server
	// Output:
}

// Policies tell which failures of which methods are repeated, and how. A retry
// policy that is written out declares its methods safe to repeat.
func ExampleWithPolicy() {
	policy := interceptors.WithPolicy(interceptors.MethodPolicies{
		"/shop.v1.Orders/Get": {
			Timeout: 2 * time.Second,
			Retry: &interceptors.RetryPolicy{
				MaxAttempts: 4,
				Codes:       []codes.Code{codes.Unavailable, codes.Aborted},
				Backoff:     interceptors.Backoff{Base: 20 * time.Millisecond, Jitter: interceptors.EqualJitter},
			},
		},
		"/shop.v1.Orders/": {Timeout: 5 * time.Second},
		"/shop.v1.Audit/":  {Retry: &interceptors.RetryPolicy{MaxAttempts: 1}},
	})
	_, err := interceptors.NewClient(policy)
	fmt.Println(err)
	// Output: <nil>
}

// One budget for all clients of a process, so that together they keep to it at each
// target.
func ExampleWithBudget() {
	shared := budget.New(budget.Ratio(0.1), budget.Burst(5))
	for range 2 {
		if _, err := interceptors.NewClient(interceptors.WithBudget(shared)); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println(shared.Balance("dns:///orders:443"), "extra attempts in hand")
	// Output: 5 extra attempts in hand
}

// What is wrong with the options comes back at once, all of it.
func ExampleNewServer() {
	_, err := interceptors.NewServer(interceptors.WithMaxDeadline(-time.Second), interceptors.WithFloor(-1))
	fmt.Println(err)
	// Output:
	// WithMaxDeadline(-1s): must be positive
	// WithFloor(-1ns): must not be negative
}

// A write with a key may be repeated even if a server may have seen it: all
// attempts carry the same key.
func Example_key() {
	ctx := idempotency.WithKey(context.Background(), idempotency.NewKey())
	_, ok := idempotency.FromContext(ctx)
	fmt.Println(ok)
	// Output: true
}

// How a team rolls it out: everything is counted and traced, nothing is done.
func ExampleWithMode() {
	_, err := interceptors.NewClient(interceptors.WithMode(interceptors.Observe))
	fmt.Println(err)
	_, err = interceptors.NewServer(interceptors.WithMode(interceptors.Observe))
	fmt.Println(err)
	// Output:
	// <nil>
	// <nil>
}

func ExampleHedgePolicy() {
	hedged := interceptors.WithPolicy(interceptors.MethodPolicies{
		"/shop.v1.Search/Find": {Hedge: &interceptors.HedgePolicy{MaxAttempts: 2, Delay: interceptors.HedgeAtP95}},
	})
	_, err := interceptors.NewClient(hedged)
	fmt.Println(err)
	// Output: <nil>
}

func ExampleWithServiceConfig() {
	config := interceptors.WithServiceConfig(`{"methodConfig": [{
		"name": [{"service": "shop.v1.Orders"}], "timeout": "5s",
		"retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "1s",
			"backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}
	}]}`)
	_, err := interceptors.NewClient(config)
	fmt.Println(err)
	_, err = interceptors.NewClient(interceptors.WithServiceConfig(`{"retryThrottling": {"maxTokens": 10}}`))
	fmt.Println(err)
	// Output:
	// <nil>
	// WithServiceConfig: $.retryThrottling.tokenRatio: is required
}

func ExampleOverloaded() {
	busy := func(ctx context.Context) error {
		return interceptors.Overloaded(ctx, codes.ResourceExhausted, 200*time.Millisecond)
	}
	fmt.Println(status.Code(busy(context.Background())))
	// Output: ResourceExhausted
}

func ExampleNoRetry() {
	conn, err := grpc.NewClient("passthrough:///127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close() }()
	err = conn.Invoke(context.Background(), "/shop.v1.Orders/Get", nil, nil, interceptors.NoRetry())
	fmt.Println(err != nil)
	// Output: true
}

// A server that makes each write once for each key, and finds out before it
// serves whether it can. Callers without Hopbound send the key in the header
// idempotency-key.
func ExampleWithIdempotency() {
	store := idempotency.NewMemory()
	server, err := interceptors.NewServer(interceptors.WithIdempotency(store, idempotency.Retention(48*time.Hour)))
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(server.ServerOptions()...)
	defer srv.Stop()
	// ... register the services ...
	if err := server.Check(srv); err != nil {
		fmt.Println(err)
		return
	}
	// Output:
}

// What a method's proto file does not say of its keys, options do.
func ExampleWithIdempotency_methods() {
	_, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory(),
		idempotency.ForMethod("/shop.v1.Orders/Place",
			idempotency.RequireKey(),
			idempotency.KeyField("request_id"),
			idempotency.Retention(72*time.Hour)),
		idempotency.ForMethod("/shop.v1.Carts/", idempotency.Off()),
	))
	fmt.Println(err)
	// Output: <nil>
}

// A service that may bear one retry for two successes, and an HTTP handler whose
// calls share one request budget.
func Example_budget() {
	b := budget.New(budget.Ratio(0.5))
	client, err := interceptors.NewClient(interceptors.WithBudget(b))
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = client.DialOptions() // for the connections that the handler calls through

	page := func(_ http.ResponseWriter, r *http.Request) {
		ctx, end := budget.NewRoot(r.Context(), b)
		defer end(true)

		a, _ := budget.FromContext(ctx)
		fmt.Println(a.Free(), "extra attempts for all calls of the page")
	}
	page(nil, httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/", http.NoBody))
	// Output: 10 extra attempts for all calls of the page
}
