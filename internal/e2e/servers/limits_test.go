package servers_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
)

// limited is a server with every limit, all of a second.
func limited(t testing.TB, opts ...interceptors.ServerOption) []grpc.ServerOption {
	t.Helper()
	return harness.NewServer(t, append(opts,
		interceptors.WithMaxDeadline(time.Second), interceptors.WithDefaultDeadline(time.Second), interceptors.WithFloor(time.Second/2),
		interceptors.WithStreamIdleLimit(time.Second), interceptors.WithStreamSendTimeout(time.Second))...).ServerOptions()
}

// A client that watches the health of a backend keeps its stream for hours without
// a message.
func TestLimitsDoNotEndHealthWatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := harness.NewNode(t, limited(t)...)
		service := health.NewServer()
		healthv1.RegisterHealthServer(n.Server, service)
		n.Start()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch, err := healthv1.NewHealthClient(n.Dial()).Watch(ctx, &healthv1.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		next := func(want healthv1.HealthCheckResponse_ServingStatus) {
			t.Helper()
			if r, err := watch.Recv(); err != nil || r.GetStatus() != want {
				t.Fatalf("got %v and %v, want %v", r, err, want)
			}
		}
		next(healthv1.HealthCheckResponse_SERVING)
		time.Sleep(10 * time.Hour)
		service.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
		next(healthv1.HealthCheckResponse_NOT_SERVING)
		cancel()
		_, _ = watch.Recv()
		service.Shutdown()
	})
}

func TestLimitsOfAMethodOutweighThoseOfTheServer(t *testing.T) {
	t.Parallel()
	const method = testv1.TestService_Idempotent_FullMethodName
	for name, tc := range map[string]struct {
		limits map[string]interceptors.Limits
		want   time.Duration // left in the handler, of a minute
	}{
		"none":               {nil, time.Second},
		"of the method":      {map[string]interceptors.Limits{method: {MaxDeadline: 20 * time.Second}}, 20 * time.Second},
		"lifted":             {map[string]interceptors.Limits{method: {MaxDeadline: interceptors.NoLimit}}, time.Minute},
		"of its service":     {map[string]interceptors.Limits{"/hopbound.test.v1.TestService/": {MaxDeadline: 30 * time.Second}}, 30 * time.Second},
		"of all others":      {map[string]interceptors.Limits{"": {MaxDeadline: 40 * time.Second}}, 40 * time.Second},
		"of another purpose": {map[string]interceptors.Limits{method: {StreamIdle: time.Hour}}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				seen := harness.NewArrival()
				do := harness.Idempotent(harness.Serve(t, seen.Handle, limited(t, interceptors.WithMethodLimits(tc.limits))...).Dial())
				if err := harness.Within(t, do, time.Minute); err != nil {
					t.Fatal(err)
				}
				if left := <-seen.Left; left != tc.want {
					t.Errorf("%v left, want %v", left, tc.want)
				}
			})
		})
	}
}

// An absurd deadline on the wire does not stand in for one that gRPC did not
// send: the server's default holds.
func TestDefaultDeadlineHoldsWhateverTheHeaderSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		seen := harness.NewArrival()
		do := harness.Idempotent(harness.Serve(t, seen.Handle, harness.NewServer(t, interceptors.WithDefaultDeadline(time.Second)).ServerOptions()...).Dial())
		for _, header := range []string{"1;d=9223372036854775807;s=0;c=000000000000000a", "1;d=3600000000;s=0;c=000000000000000b"} {
			if err := do(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, header)); err != nil {
				t.Fatal(err)
			}
			if left := <-seen.Left; left != time.Second {
				t.Errorf("%s: %v left, want 1s", header, left)
			}
		}
	})
}
