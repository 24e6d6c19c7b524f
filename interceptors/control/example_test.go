package control_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/control"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// newClient returns a client whose policies and modes are those of a file, which it reads again until the context ends.
func newClient(ctx context.Context, location string, meters metric.MeterProvider) (*interceptors.Client, error) {
	file, err := control.Open(location, control.WithMeterProvider(meters))
	if err != nil {
		return nil, err
	}
	client, err := interceptors.NewClient(interceptors.WithPolicy(file), interceptors.WithMeterProvider(meters))
	if err != nil {
		return nil, err
	}
	file.Apply(client)
	go file.Watch(ctx)
	return client, nil
}

// leaf is a service that is down.
type leaf struct {
	healthpb.UnimplementedHealthServer
	calls atomic.Int64
}

func (l *leaf) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	l.calls.Add(1)
	return nil, status.Error(codes.Unavailable, "down")
}

// Two services read their policies from an endpoint, which serves the text of a file. When the file changes, their next
// calls are made as it says.
func ExampleHandler() {
	dir, err := os.MkdirTemp("", "control")
	check(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "policies.yaml")
	quiet := control.WithLogger(slog.New(slog.DiscardHandler))

	// The endpoint.
	publish := func(text string) {
		check(os.WriteFile(path+".new", []byte(text), 0o600))
		check(os.Rename(path+".new", path))
	}
	publish(`
version: first
methods:
  - name: /grpc.health.v1.Health/
    retry: {maxAttempts: 3, backoff: {base: 1ms}}
`)
	file, err := control.Open(path, quiet)
	check(err)
	mux := http.NewServeMux()
	mux.Handle("/control/", http.StripPrefix("/control", control.Handler(file)))
	endpoint := httptest.NewServer(mux)
	defer endpoint.Close()

	// What the services call.
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // of an example
	check(err)
	down := &leaf{}
	srv := grpc.NewServer()
	healthpb.RegisterHealthServer(srv, down)
	go func() { _ = srv.Serve(listener) }()
	defer srv.Stop()

	// The services.
	type service struct {
		name  string
		file  *control.File
		calls healthpb.HealthClient
	}
	var services []service
	for _, name := range []string{"orders", "payments"} {
		file, err := control.Open(endpoint.URL+"/control/", control.WithHTTPClient(endpoint.Client()), quiet)
		check(err)
		client, err := interceptors.NewClient(interceptors.WithPolicy(file))
		check(err)
		file.Apply(client)
		conn, err := grpc.NewClient(listener.Addr().String(),
			append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		check(err)
		defer conn.Close()
		services = append(services, service{name, file, healthpb.NewHealthClient(conn)})
	}
	call := func() {
		check(file.Reload(context.Background())) // as Watch does
		for _, s := range services {
			check(s.file.Reload(context.Background()))
			down.calls.Store(0)
			_, _ = s.calls.Check(context.Background(), &healthpb.HealthCheckRequest{})
			fmt.Printf("%s, version %s: %d attempts\n", s.name, s.file.Status().Version, down.calls.Load())
		}
	}
	call()
	publish(`
version: second
methods:
  - name: /grpc.health.v1.Health/
    retry: {maxAttempts: 1}
`)
	call()
	// Output:
	// orders, version first: 3 attempts
	// payments, version first: 3 attempts
	// orders, version second: 1 attempts
	// payments, version second: 1 attempts
}

// The errors of a file name the line and the field of each mistake.
func ExampleOpen() {
	dir, err := os.MkdirTemp("", "control")
	check(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "policies.yaml")
	check(os.WriteFile(path, []byte(`methods:
  - name: /shop.v1.Orders/Get
    timeout: 2
    retry: {maxAttempts: 3, code: [UNAVAILABLE]}
`), 0o600))
	_, err = control.Open(path)
	fmt.Println(strings.ReplaceAll(err.Error(), path, "policies.yaml"))
	// Output:
	// control: policies.yaml:3: methods[0].timeout: must be a positive duration with a unit, such as "1.5s"
	// policies.yaml:4: methods[0].retry: unknown field "code", must be one of backoff, codes, maxAttempts
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
