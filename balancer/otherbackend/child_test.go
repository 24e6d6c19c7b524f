package otherbackend_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/balancer"
)

// A resolver may hand out another service config at any time.
func TestChildChangesWithTheServiceConfig(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, 3, func(context.Context, int) error { return nil })
		cc := b.dial(overRoundRobin, client(t, retrying(3))...)
		for name, busy := range map[string]int{"pick_first": 1, "round_robin": 3} {
			b.configure(name)
			synctest.Wait()
			b.calls = make([][]string, 3)
			for i := range 9 {
				if err := call(t.Context(), cc, strconv.Itoa(i)); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			got := 0
			for _, calls := range b.calls {
				if len(calls) > 0 {
					got++
				}
			}
			if got != busy {
				t.Errorf("%s: %d backends got calls, want %d", name, got, busy)
			}
		}
	})
}

// configure hands out a service config with a child policy.
func (b *backends) configure(child string) {
	state := b.state()
	state.ServiceConfig = b.resolver.CC().ParseServiceConfig(fmt.Sprintf(
		`{"loadBalancingConfig": [{"hopbound_other_backend": {"childPolicy": [{%q: {}}]}}]}`, child))
	b.resolver.UpdateState(state)
}

// While a new child policy connects, calls go to the backends of the old one.
func TestChildChangesWithoutAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, 2, func(context.Context, int) error { return nil })
		cc := b.dial(overRoundRobin, client(t, retrying(1))...)
		b.delay.Store(int64(5 * time.Second))
		for _, child := range []string{"least_request_experimental", "round_robin", "pick_first", "least_request_experimental"} {
			b.configure(child) // the third comes before the second has connected
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				if err := call(ctx, cc, child); err != nil {
					t.Errorf("%s: %v", child, err)
				}
				cancel()
				time.Sleep(time.Second)
			}
		}
		time.Sleep(time.Minute)
		if err := call(t.Context(), cc, "afterwards"); err != nil {
			t.Error(err)
		}
	})
}

// restless is a child policy that publishes pickers from a goroutine of its own, as
// some of gRPC's do.
type restless struct{ balancer.Builder }

func init() { //nolint:gochecknoinits // gRPC allows no registration later
	balancer.Register(restless{balancer.Get("round_robin")})
}

func (restless) Name() string { return "restless_test" }

func (r restless) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	c := &restlessConn{ClientConn: cc, stop: make(chan struct{})}
	return &restlessBalancer{r.Builder.Build(c, opts), c}
}

type restlessBalancer struct {
	balancer.Balancer
	conn *restlessConn
}

func (b *restlessBalancer) Close() {
	b.Balancer.Close()
	close(b.conn.stop)
}

type restlessConn struct {
	balancer.ClientConn
	stop chan struct{}
}

func (c *restlessConn) UpdateState(s balancer.State) {
	go func() {
		select {
		case <-c.stop:
		default:
			c.ClientConn.UpdateState(s)
		}
	}()
}

func TestChildMayPublishPickersAtAnyTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, 3, firstFails)
		cc := b.dial(`{"hopbound_other_backend": {"childPolicy": [{"restless_test": {}}]}}`, client(t, retrying(2))...)
		for i := range 20 {
			b.configure("restless_test")
			time.Sleep(ms)
			if err := call(t.Context(), cc, strconv.Itoa(i)); err != nil {
				t.Error(err)
			}
		}
	})
}
