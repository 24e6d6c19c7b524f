package bulkhead_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// A storm follows a time in which a leaf is slow: the callers of the calls in its queue have given up, and their
// further attempts add calls to it. The leaf works on four calls at once, each takes 5 ms, and users make 560
// requests a second, 0.7 of what it can serve.
const (
	stormWorkers  = 4
	stormJob      = 5 * ms
	stormRate     = 560
	stormDeadline = 200 * ms
	stormHealthy  = 5 * time.Second
	stormTrigger  = 2 * time.Second // during which the leaf is slow, or dead
	stormAfter    = 5 * time.Second
)

// storm is what a storm test measures.
type storm struct {
	all                 int64   // requests
	settled             float64 // share that succeeds, from a second after the trigger on
	leafCallsPerRequest float64
}

// runStorm makes requests through three hops, of which the last has a bulkhead or an unbounded queue. The trigger
// changes how long a job takes, or makes the leaf fail.
func runStorm(t *testing.T, bounded bool, trigger func(begun time.Duration) (job time.Duration, dead bool)) storm {
	t.Helper()
	began := time.Now()
	places := make(chan struct{}, stormWorkers)
	var leafCalls atomic.Int64
	leaf := &companiontest.Server{Handle: func(ctx context.Context) error {
		if !bounded { // a queue that does not look whether callers still wait
			places <- struct{}{}
			defer func() { <-places }()
		}
		job, dead := trigger(time.Since(began))
		if dead {
			return status.Error(codes.Unavailable, "down")
		}
		time.Sleep(job)
		return ctx.Err()
	}}
	count := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		leafCalls.Add(1)
		return handler(ctx, req)
	})
	serve := append([]grpc.ServerOption{count}, hopboundServer(t)...)
	if bounded {
		serve = append(serve, newBulkhead(t, stormWorkers).ServerOptions()...)
	}
	next := companiontest.Connect(t, leaf, serve, hopboundClient(t)...)
	for range 2 {
		down := next
		next = companiontest.Connect(t, &companiontest.Server{Handle: func(ctx context.Context) error {
			_, err := down.Check(ctx, &healthpb.HealthCheckRequest{})
			return err
		}}, hopboundServer(t), hopboundClient(t)...)
	}
	dice := rand.New(rand.NewPCG(1, 2))
	var s storm
	var requests, succeeded atomic.Int64 // from a second after the trigger on
	var wg sync.WaitGroup
	for {
		time.Sleep(time.Duration(dice.ExpFloat64() / stormRate * float64(time.Second)))
		since := time.Since(began) - stormHealthy - stormTrigger
		if since > stormAfter {
			break
		}
		s.all++
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), stormDeadline)
			defer cancel()
			_, err := next.Check(ctx, &healthpb.HealthCheckRequest{})
			if since > time.Second {
				requests.Add(1)
				if err == nil {
					succeeded.Add(1)
				}
			}
		})
	}
	wg.Wait()
	s.settled = float64(succeeded.Load()) / float64(requests.Load())
	s.leafCallsPerRequest = float64(leafCalls.Load()) / float64(s.all)
	return s
}

func hopboundServer(t *testing.T) []grpc.ServerOption {
	t.Helper()
	s, err := interceptors.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	return s.ServerOptions()
}

func hopboundClient(t *testing.T) []grpc.DialOption {
	t.Helper()
	c, err := interceptors.NewClient(interceptors.WithPolicy(interceptors.MethodPolicies{"": {
		AttemptTimeout: 60 * ms, Retry: &interceptors.RetryPolicy{MaxAttempts: 3, Codes: []codes.Code{codes.Unavailable, codes.DeadlineExceeded}},
	}}))
	if err != nil {
		t.Fatal(err)
	}
	return c.DialOptions()
}

// With a bulkhead, users' requests succeed again within a second after the leaf was ten times slower, or was dead
// and came back cold, and the leaf gets hardly more calls than there were requests: after it has died, its callers
// spend the tokens of their budget, once. With an unbounded queue in the handler, the storm goes on.
func TestStormEndsWithItsCause(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("it makes some 20,000 requests, and other tests look for races")
	}
	slow := func(since time.Duration) (time.Duration, bool) {
		if since > stormHealthy && since < stormHealthy+stormTrigger {
			return 10 * stormJob, false
		}
		return stormJob, false
	}
	dead := func(since time.Duration) (time.Duration, bool) {
		switch {
		case since > stormHealthy && since < stormHealthy+stormTrigger:
			return 0, true
		case since >= stormHealthy+stormTrigger && since < stormHealthy+stormTrigger+300*ms: // cold: twice as slow
			return 2 * stormJob, false
		}
		return stormJob, false
	}
	for name, trigger := range map[string]func(time.Duration) (time.Duration, bool){"slow": slow, "dead, and back cold": dead} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := runStorm(t, true, trigger)
				t.Logf("after a second %.4f of the requests succeed; %.4f calls of the leaf per request", s.settled, s.leafCallsPerRequest)
				if s.settled < 0.99 || s.leafCallsPerRequest > 1.02 {
					t.Error("the storm goes on")
				}
			})
		})
	}
	t.Run("slow, with an unbounded queue", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := runStorm(t, false, slow)
			t.Logf("after a second %.4f of the requests succeed; %.4f calls of the leaf per request", s.settled, s.leafCallsPerRequest)
			if s.settled > 0.9 {
				t.Error("there is no storm to end")
			}
		})
	})
}
