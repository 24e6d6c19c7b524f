package health_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/degrade"
	"github.com/hopbound/hopbound/interceptors/health"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
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

// A server that stops says so, lets calls finish, does not wait for watches of its health, and cuts what does not end.
func TestStopDrainsWithinADeadline(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		work, lameDuck, limit, took time.Duration
		cut                         bool
	}{
		"nothing runs":            {0, 0, time.Minute, 0, false},
		"a call runs":             {10 * time.Second, 0, time.Minute, 10 * time.Second, false},
		"it waits as a lame duck": {0, 5 * time.Second, time.Minute, 5 * time.Second, false},
		"a call takes too long":   {time.Hour, 5 * time.Second, time.Minute, time.Minute, true},
		"no time is left":         {time.Hour, time.Minute, time.Second, time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t, health.LameDuck(tc.lameDuck))
				n := node(t, s, func(ctx context.Context) error {
					select {
					case <-time.After(tc.work):
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				})
				cc := n.Dial()
				watch, err := healthpb.NewHealthClient(cc).Watch(t.Context(), &healthpb.HealthCheckRequest{})
				if err != nil {
					t.Fatal(err)
				}
				result := make(chan error, 1)
				if tc.work > 0 {
					go func() { result <- harness.Idempotent(cc)(t.Context()) }()
				} else {
					result <- nil
				}
				synctest.Wait()
				started := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), tc.limit)
				defer cancel()
				err = s.Stop(ctx, n.Server)
				if took := time.Since(started); (err != nil) != tc.cut || took != tc.took {
					t.Errorf("%v after %v", err, took)
				}
				if err := <-result; (err != nil) != tc.cut {
					t.Errorf("the call ends with %v", err)
				}
				var seen []string
				for {
					m, err := watch.Recv()
					if err != nil {
						break
					}
					seen = append(seen, m.GetStatus().String())
				}
				if want := []string{"SERVING", "NOT_SERVING"}; !slices.Equal(seen, want) {
					t.Errorf("the watch saw %v", seen)
				}
				if err := s.Stop(t.Context(), n.Server); err != nil {
					t.Errorf("a second stop: %v", err)
				}
			})
		})
	}
}

// 128 users call three servers on loopback, which are restarted one after the other, twice. No call fails.
func TestRollingRestartLosesNothing(t *testing.T) {
	t.Parallel()
	const users, replicas = 128, 3
	var servers [replicas]*replica
	addresses := resolver.State{}
	for i := range servers {
		servers[i] = &replica{t: t}
		servers[i].start("127.0.0.1:0")
		addresses.Addresses = append(addresses.Addresses, resolver.Address{Addr: servers[i].address})
	}
	r := manual.NewBuilderWithScheme("test")
	r.InitialState(addresses)
	cc, err := grpc.NewClient("test:///", slices.Concat(harness.NewClient(t).DialOptions(), newClient(t, health.CheckService("")),
		[]grpc.DialOption{
			grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, MaxDelay: 10 * time.Millisecond}}),
		})...)
	if err != nil {
		t.Fatal(err)
	}
	var calls, failed atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range users {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				calls.Add(1)
				if err := harness.Idempotent(cc)(t.Context()); err != nil {
					failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	// Each restart waits until all users have made calls with the server before it back.
	more := func() {
		for until := calls.Load() + 10*users; calls.Load() < until; {
			time.Sleep(time.Millisecond) // it polls real servers
		}
	}
	for range 2 {
		for _, s := range servers {
			more()
			s.stop()
			more()
			s.start(s.address)
			s.awaitCall()
		}
	}
	close(stop)
	wg.Wait()
	_ = cc.Close()
	for _, s := range servers {
		s.stop()
	}
	t.Logf("%d calls, %d failed", calls.Load(), failed.Load())
}

// replica is a server that can be restarted at its address.
type replica struct {
	t       *testing.T
	address string
	server  *grpc.Server
	health  *health.Server
	calls   atomic.Int64
	done    chan struct{}
}

func (r *replica) start(address string) {
	listener, err := net.Listen("tcp", address) //nolint:noctx // it takes no time
	if err != nil {
		r.t.Error(err)
		return
	}
	r.address, r.done, r.health = listener.Addr().String(), make(chan struct{}), newServer(r.t)
	r.calls.Store(0)
	r.server = grpc.NewServer(slices.Concat(harness.NewServer(r.t, interceptors.WithFloor(0)).ServerOptions(), r.health.ServerOptions())...)
	testv1.RegisterTestServiceServer(r.server, harness.Service{Handle: func(context.Context) error {
		r.calls.Add(1)
		time.Sleep(time.Millisecond) // its work
		return nil
	}})
	r.health.Register(r.server)
	go func(server *grpc.Server, done chan struct{}) {
		defer close(done)
		_ = server.Serve(listener)
	}(r.server, r.done)
}

func (r *replica) stop() {
	if err := r.health.Stop(r.t.Context(), r.server); err != nil && !strings.Contains(err.Error(), "context canceled") {
		r.t.Error(err)
	}
	<-r.done
}

// awaitCall waits until the clients use the server again.
func (r *replica) awaitCall() {
	for r.calls.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
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
