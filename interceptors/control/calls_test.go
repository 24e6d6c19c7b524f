package control_test

import (
	"context"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/control"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// resolve returns dial options for a target whose resolver has a service config.
func resolve(listener *bufconn.Listener, config string) (target string, opts []grpc.DialOption) {
	r := manual.NewBuilderWithScheme("shop")
	r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
		r.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: "leaf"}}, ServiceConfig: cc.ParseServiceConfig(config)})
	}
	return "shop:///leaf", []grpc.DialOption{
		grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
	}
}

// The order is that of interceptors.WithPolicy: call options, the file, WithServiceConfig, the service config of the
// connection. Each field is taken from the first source that sets it.
func TestFileTakesPrecedenceOverServiceConfigsFieldByField(t *testing.T) {
	t.Parallel()
	const (
		resolved = `{"methodConfig": [{"name": [{}], "timeout": "40s", "retryPolicy": {"maxAttempts": 5,
			"initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
		own = `{"methodConfig": [{"name": [{}], "timeout": "30s", "retryPolicy": {"maxAttempts": 4,
			"initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}}]}`
	)
	synctest.Test(t, func(t *testing.T) {
		var attempts atomic.Int64
		var timeout atomic.Int64 // of the first attempt
		leaf := &companiontest.Server{Handle: func(ctx context.Context) error {
			if deadline, _ := ctx.Deadline(); attempts.Add(1) == 1 {
				timeout.Store(int64(time.Until(deadline)))
			}
			return status.Error(codes.Unavailable, "always")
		}}
		listener := bufconn.Listen(1 << 16)
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, leaf)
		go func() { _ = server.Serve(listener) }()
		defer server.Stop()

		file, path := open(t, "version: 1")
		connect := func(opts ...interceptors.ClientOption) healthpb.HealthClient {
			client, err := interceptors.NewClient(append(opts, interceptors.WithPolicy(file),
				interceptors.WithBudget(budget.New(budget.Burst(1000), budget.PerRequest(100))))...)
			if err != nil {
				t.Fatal(err)
			}
			target, dial := resolve(listener, resolved)
			conn, err := grpc.NewClient(target, append(dial, client.DialOptions()...)...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			return healthpb.NewHealthClient(conn)
		}
		plain, configured := connect(), connect(interceptors.WithServiceConfig(own))
		const (
			timeoutOnly = "methods: [{name: /grpc.health.v1.Health/, timeout: 20s}]"
			retryOnly   = "methods: [{name: '', retry: {maxAttempts: 3}}]"
			both        = "methods: [{name: /grpc.health.v1.Health/Check, timeout: 20s, retry: {maxAttempts: 3}}]"
			elsewhere   = "methods: [{name: /grpc.health.v1.Health/Watch, timeout: 20s, retry: {maxAttempts: 3}}]"
		)
		option := interceptors.UsePolicy(interceptors.Policy{Timeout: 10 * time.Second})
		for _, step := range []struct {
			name     string
			file     string
			client   healthpb.HealthClient
			opts     []grpc.CallOption
			timeout  int // in seconds
			attempts int64
		}{
			{"a timeout, before the resolver's", timeoutOnly, plain, nil, 20, 5},
			{"a timeout, before WithServiceConfig", timeoutOnly, configured, nil, 20, 4},
			{"retries, before the resolver's", retryOnly, plain, nil, 40, 3},
			{"retries, before WithServiceConfig", retryOnly, configured, nil, 30, 3},
			{"both, before the resolver's", both, plain, nil, 20, 3},
			{"both, before WithServiceConfig", both, configured, nil, 20, 3},
			{"after a call option", both, plain, []grpc.CallOption{option}, 10, 3},
			{"retries after a call option", both, plain, []grpc.CallOption{interceptors.NoRetry()}, 20, 1},
			{"no entry, the resolver's", elsewhere, plain, nil, 40, 5},
			{"no entry, WithServiceConfig", elsewhere, configured, nil, 30, 4},
			{"no file's entry at all", "version: 2", configured, nil, 30, 4},
		} {
			write(t, path, step.file)
			if err := file.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			attempts.Store(0)
			err := companiontest.Call(t.Context(), step.client, false, step.opts...)
			got := time.Duration(timeout.Load())
			if status.Code(err) != codes.Unavailable || attempts.Load() != step.attempts || got != seconds(step.timeout) {
				t.Errorf("%s: %d attempts with a timeout of %v (%v), want %d with %ds", step.name, attempts.Load(), got, err, step.attempts, step.timeout)
			}
		}
	})
}

// unknown serves methods of any name, whose calls all end with an error, and returns a function that makes one.
func unknown(t *testing.T, calls *atomic.Int64, serve []grpc.ServerOption, dial ...grpc.DialOption) func(ctx context.Context, method string) error {
	t.Helper()
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(append(serve, grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		calls.Add(1)
		return status.Error(codes.Unavailable, "always")
	}))...)
	go func() { _ = server.Serve(listener) }()
	target, opts := resolve(listener, "{}")
	conn, err := grpc.NewClient(target, append(opts, dial...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
	})
	return func(ctx context.Context, method string) error {
		return conn.Invoke(ctx, method, &healthpb.HealthCheckRequest{}, &healthpb.HealthCheckResponse{})
	}
}

func TestModesOfTheFileAreThoseOfClientsAndServers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const retry = "methods:\n  - {name: '', retry: {maxAttempts: 3}}\n"
		file, path := open(t, "mode: observe\n"+retry)
		client, err := interceptors.NewClient(interceptors.WithPolicy(file), interceptors.WithBudget(budget.New(budget.Burst(1000))))
		if err != nil {
			t.Fatal(err)
		}
		server, err := interceptors.NewServer(interceptors.WithFloor(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		dial := client.DialOptions() // of a client that enforces, because the file is not applied yet
		file.Apply(client, nil)
		file.Apply(nil, server)
		var attempts, accepted atomic.Int64
		throughClient := unknown(t, &attempts, nil, dial...)
		toServer := unknown(t, &accepted, server.ServerOptions())
		for _, step := range []struct {
			name     string
			file     string
			c, d     int64 // attempts of calls of /a.B/C and of /a.B/D
			rejected bool  // is a call of /a.B/C, by the server
		}{
			{"both observe", "mode: observe\n" + retry, 1, 1, false},
			{"both enforce by default", retry, 3, 3, true},
			{"a method observes", retry + "  - {name: /a.B/C, mode: observe}\n", 1, 3, false},
			{"a service observes", retry + "  - {name: /a.B/, mode: observe}\n", 1, 1, false},
			{"a method of it enforces", retry + "  - {name: /a.B/, mode: observe}\n  - {name: /a.B/C, mode: enforce}\n", 3, 1, true},
			{"the entries are removed", retry, 3, 3, true},
			{"clients observe", "mode: {client: observe}\n" + retry, 1, 1, true},
			{"servers observe", "mode: {server: observe, client: enforce}\n" + retry, 3, 3, false},
			{"clients of a method observe", "mode: {server: observe}\n" + retry + "  - {name: /a.B/C, mode: {client: observe}}\n", 1, 3, false},
			{"servers of a method enforce", "mode: observe\n" + retry + "  - {name: /a.B/C, mode: {server: enforce}}\n", 1, 1, true},
			{"both enforce again", "mode: enforce\n" + retry, 3, 3, true},
		} {
			write(t, path, step.file)
			if err := file.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			for method, want := range map[string]int64{"/a.B/C": step.c, "/a.B/D": step.d} {
				attempts.Store(0)
				if _ = throughClient(t.Context(), method); attempts.Load() != want {
					t.Errorf("%s: %d attempts of a call of %s, want %d", step.name, attempts.Load(), method, want)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := toServer(ctx, "/a.B/C")
			cancel()
			if _, rejected := companiontest.Rejected(err, codes.DeadlineExceeded, interceptors.ReasonDeadlineUnreachable); rejected != step.rejected {
				t.Errorf("%s: the server returned %v", step.name, err)
			}
		}
	})
}

// A file that is invalid changes no mode.
func TestInvalidFileKeepsTheModes(t *testing.T) {
	t.Parallel()
	file, path := open(t, "mode: observe")
	client, err := interceptors.NewClient(interceptors.WithPolicy(file))
	if err != nil {
		t.Fatal(err)
	}
	file.Apply(client)
	if n := len(client.DialOptions()); n != 2 { // without grpc.WithDisableRetry
		t.Errorf("%d options of a client that observes", n)
	}
	write(t, path, "mode: enforced")
	if file.Reload(t.Context()) == nil || len(client.DialOptions()) != 2 {
		t.Error("the mode has changed")
	}
	write(t, path, "mode: enforce")
	if err := file.Reload(t.Context()); err != nil || len(client.DialOptions()) != 3 {
		t.Errorf("the mode has not changed: %v", err)
	}
}

// A mode that an operator has set stays until the file has another version.
func TestModeStaysIfTheFileComesBackAsItWas(t *testing.T) {
	t.Parallel()
	const v1 = "mode: enforce\n"
	file, path := open(t, v1)
	server, err := interceptors.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	file.Apply(nil, server)
	loaded := file.Status().Loaded
	_ = server.SetMode(interceptors.Observe)
	for _, blip := range []func(){func() { _ = os.Remove(path) }, func() { write(t, path, "mode: enforced\n") }} {
		blip()
		if file.Reload(t.Context()) == nil {
			t.Error("no error")
		}
		write(t, path, v1)
		if err := file.Reload(t.Context()); err != nil || !server.Observes("/a.B/C") || file.Status() != (control.Status{Version: file.Status().Version, Loaded: loaded}) {
			t.Errorf("error %v, observes: %v, status %+v", err, server.Observes("/a.B/C"), file.Status())
		}
	}
	write(t, path, "version: 2\n"+v1)
	if err := file.Reload(t.Context()); err != nil || server.Observes("/a.B/C") {
		t.Errorf("error %v, observes: %v", err, server.Observes("/a.B/C"))
	}
}

func TestCheckOfAClientChecksItsFile(t *testing.T) {
	t.Parallel()
	file, _ := open(t, "methods:\n  - name: /a.B/C\n    timeout: 1s\n")
	client, err := interceptors.NewClient(interceptors.WithPolicy(file))
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Check(); err == nil || !strings.Contains(err.Error(), `"/a.B/C": no service of this name is linked in`) {
		t.Error(err)
	}
}
