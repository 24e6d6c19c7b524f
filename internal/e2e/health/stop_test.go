package health_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/health"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

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
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, MaxDelay: 10 * time.Millisecond},
				MinConnectTimeout: time.Minute, // the machine may be busy
			}),
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
	for _, s := range servers {
		s.awaitCall()
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
