package health_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors/degrade"
	"github.com/hopbound/hopbound/interceptors/health"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClient(t testing.TB, opts ...health.ClientOption) []grpc.DialOption {
	t.Helper()
	c, err := health.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return c.DialOptions()
}

func newServer(t testing.TB, opts ...health.ServerOption) *health.Server {
	t.Helper()
	s, err := health.NewServer(opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A connection whose packets are dropped without notice is closed within the promised time, at both ends. With gRPC's
// defaults, the call waits for ever.
func TestDeadConnectionIsDetected(t *testing.T) {
	t.Parallel()
	for _, detect := range []time.Duration{0, 12 * time.Second, 30 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var dial []grpc.DialOption
			var serve []grpc.ServerOption
			if detect > 0 {
				dial, serve = newClient(t, health.DetectWithin(detect)), newServer(t, health.DetectWithin(detect)).ServerOptions()
			}
			died, serverNoticed := make(chan time.Time, 1), make(chan time.Time, 1)
			n := harness.NewNode(t, serve...)
			n.Network = harness.NewNetwork(0)
			testv1.RegisterTestServiceServer(n.Server, harness.Service{Handle: func(ctx context.Context) error {
				n.Network.Partition()
				died <- time.Now()
				<-ctx.Done()
				serverNoticed <- time.Now()
				return ctx.Err()
			}})
			n.Start()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			err := harness.Idempotent(n.Dial(dial...))(ctx)
			started := <-died
			took := time.Since(started)
			switch {
			case detect == 0 && status.Code(err) == codes.DeadlineExceeded: // it was not noticed
				n.Cut()
			case detect == 0 || status.Code(err) != codes.Unavailable || took > detect:
				t.Errorf("within %v: %v after %v", detect, err, took)
			}
			if after := (<-serverNoticed).Sub(started); detect > 0 && after > detect {
				t.Errorf("within %v: the server noticed it after %v", detect, after)
			}
		})
	}
}

// An idle connection is pinged for hours, and the server does not mind.
func TestIdleConnectionIsKeptAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, health.DetectWithin(12*time.Second), health.MaxConnectionAge(10*time.Hour, time.Minute))
		n := harness.Serve(t, func(context.Context) error { return nil }, s.ServerOptions()...)
		cc := n.Dial(newClient(t, health.DetectWithin(12*time.Second))...)
		for range 5 {
			if err := harness.Idempotent(cc)(t.Context()); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Hour / 3) // gRPC closes a connection that no call has used for half an hour
		}
		if n.Mu.Lock(); len(n.Conns) != 1 || cc.GetState() != connectivity.Ready {
			t.Errorf("%d connections were made, and the last is %v", len(n.Conns), cc.GetState())
		}
		n.Mu.Unlock()
	})
}

// However long a server was away, a client is connected again soon after it is back. With gRPC's defaults that may take
// two minutes.
func TestClientReconnectsSoon(t *testing.T) {
	t.Parallel()
	for _, ours := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var dial []grpc.DialOption
			if ours {
				dial = newClient(t)
			}
			n := harness.Serve(t, func(context.Context) error { return nil })
			var longest time.Duration
			for i := range 10 {
				cc := n.Dial(dial...)
				n.Refused.Store(1 << 40)
				cc.Connect()
				time.Sleep(10*time.Minute + time.Duration(i)*11*time.Second)
				n.Refused.Store(0)
				cc.Connect()
				started := time.Now()
				if err := harness.Idempotent(cc)(t.Context(), grpc.WaitForReady(true)); err != nil {
					t.Error(err)
				}
				longest = max(longest, time.Since(started))
			}
			if longest > 6*time.Second == ours { // 5 s and 20 % of jitter
				t.Errorf("with the presets %v: connected after up to %v", ours, longest)
			}
		})
	}
}

func TestConnectionsAreRenewedAtTheirAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.Serve(t, func(context.Context) error { time.Sleep(50 * time.Second); return nil },
			newServer(t, health.MaxConnectionAge(time.Minute, time.Minute)).ServerOptions()...)
		call := harness.Idempotent(n.Dial(newClient(t)...))
		for range 10 {
			if err := call(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if n.Mu.Lock(); len(n.Conns) < 4 || len(n.Conns) > 10 {
			t.Errorf("%d connections in eight minutes", len(n.Conns))
		}
		n.Mu.Unlock()
	})
}

// node is a server with the health service.
func node(t testing.TB, s *health.Server, handle harness.Handler) *harness.Node {
	t.Helper()
	n := harness.NewNode(t, s.ServerOptions()...)
	testv1.RegisterTestServiceServer(n.Server, harness.Service{Handle: handle})
	s.Register(n.Server)
	n.Start()
	return n
}

const service = "hopbound.test.v1.TestService"

func TestStatusFollowsTheComponents(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := healthpb.NewHealthClient(node(t, s, nil).Dial())
	levels, err := degrade.New(degrade.OnChange(func(_, to degrade.Level) { s.Report("level", to < degrade.Emergency) }))
	if err != nil {
		t.Fatal(err)
	}
	for i, tc := range []struct {
		change         func()
		whole, service bool // SERVING
	}{
		{func() {}, true, true},
		{func() { s.Report("store", false) }, false, false},
		{func() { s.Report("breaker", false, service) }, false, false},
		{func() { s.Report("store", true) }, true, false},
		{func() { s.Report("breaker", true) }, true, true},
		{func() { s.Report("other", false, "another.Service") }, true, true},
		{func() { levels.Override(degrade.Minimal) }, true, true},
		{func() { levels.Override(degrade.Emergency) }, false, false},
		{levels.EndOverride, true, true},
	} {
		tc.change()
		for name, want := range map[string]bool{"": tc.whole, service: tc.service} {
			got, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: name})
			if err != nil || (got.GetStatus() == healthpb.HealthCheckResponse_SERVING) != want {
				t.Errorf("step %d: %q is %v, %v", i, name, got.GetStatus(), err)
			}
		}
	}
	if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "unknown"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if err := s.Stop(t.Context(), grpc.NewServer()); err != nil {
		t.Error(err)
	}
}

// A check runs until the server stops, and one that hangs counts as failed.
func TestChecksAreRepeated(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var down, hangs atomic.Bool
		s := newServer(t, health.CheckEvery(10*time.Second), health.WithCheck("store", func(ctx context.Context) error {
			if hangs.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			if down.Load() {
				return errors.New("down")
			}
			return nil
		}, service))
		n := node(t, s, nil)
		c := healthpb.NewHealthClient(n.Dial())
		for i, want := range []bool{true, false, false, true} {
			down.Store(i == 1)
			hangs.Store(i == 2)
			time.Sleep(21 * time.Second)
			got, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			if err != nil || (got.GetStatus() == healthpb.HealthCheckResponse_SERVING) != want {
				t.Errorf("step %d: %v, %v", i, got.GetStatus(), err)
			}
		}
		if err := s.Stop(t.Context(), n.Server); err != nil {
			t.Error(err)
		}
	})
}

// A client that checks sends no call to a server that is not SERVING.
func TestClientUsesHealthyServersOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var calls [2]atomic.Int64
		var servers [2]*health.Server
		var nodes [2]*harness.Node
		addresses := resolver.State{}
		for i := range nodes {
			servers[i] = newServer(t)
			nodes[i] = node(t, servers[i], func(context.Context) error { calls[i].Add(1); return nil })
			addresses.Addresses = append(addresses.Addresses, resolver.Address{Addr: []string{"first", "second"}[i]})
		}
		r := manual.NewBuilderWithScheme("test")
		r.InitialState(addresses)
		cc, err := grpc.NewClient("test:///", append(newClient(t, health.CheckService(service)), grpc.WithResolvers(r),
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return nodes[map[string]int{"first": 0, "second": 1}[address]].Listener.DialContext(ctx)
			}))...)
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		cc.Connect()
		use := func() (first, second bool) {
			time.Sleep(time.Minute)
			before := [2]int64{calls[0].Load(), calls[1].Load()}
			for range 10 {
				if err := harness.Idempotent(cc)(t.Context()); err != nil {
					t.Error(err)
				}
			}
			return calls[0].Load() > before[0], calls[1].Load() > before[1]
		}
		if first, second := use(); !first || !second {
			t.Error("not both are used")
		}
		servers[0].Report("store", false)
		if first, second := use(); first || !second {
			t.Error("a server that is not healthy is used")
		}
		servers[0].Report("store", true)
		if first, second := use(); !first || !second {
			t.Error("not both are used again")
		}
	})
}

func TestInvalidOptionsAreAllReported(t *testing.T) {
	t.Parallel()
	_, client := health.NewClient(health.DetectWithin(time.Second), health.ConnectWithin(0), health.Balancer(""), health.CheckService("a/b"), health.Balancer("pick_first"), nil)
	_, server := health.NewServer(health.DetectWithin(0), health.MaxConnectionAge(0, 1), health.LameDuck(-1), health.CheckEvery(0), health.WithCheck("", nil), nil)
	for err, want := range map[error]int{client: 6, server: 6} {
		var all interface{ Unwrap() []error }
		if !errors.As(err, &all) || len(all.Unwrap()) != want {
			t.Errorf("got %v", err)
		}
	}
}
