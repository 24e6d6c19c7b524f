package interceptors_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// limited is a server with every limit, all of a second.
func limited(t testing.TB, opts ...interceptors.ServerOption) []grpc.ServerOption {
	t.Helper()
	return newServer(t, append(opts,
		interceptors.WithMaxDeadline(time.Second), interceptors.WithDefaultDeadline(time.Second), interceptors.WithFloor(time.Second/2),
		interceptors.WithStreamIdleLimit(time.Second), interceptors.WithStreamSendTimeout(time.Second))...).ServerOptions()
}

// A client that watches the health of a backend keeps its stream for hours without
// a message.
func TestLimitsDoNotEndHealthWatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, limited(t)...)
		service := health.NewServer()
		healthv1.RegisterHealthServer(n.server, service)
		n.start()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		watch, err := healthv1.NewHealthClient(n.dial()).Watch(ctx, &healthv1.HealthCheckRequest{})
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
				seen := newArrival()
				do := idempotent(serve(t, seen.handle, limited(t, interceptors.WithMethodLimits(tc.limits))...).dial())
				if err := within(t, do, time.Minute); err != nil {
					t.Fatal(err)
				}
				if left := <-seen.left; left != tc.want {
					t.Errorf("%v left, want %v", left, tc.want)
				}
			})
		})
	}
}

func TestLimitsAreChecked(t *testing.T) {
	t.Parallel()
	_, err := interceptors.NewServer(
		interceptors.WithMethodLimits(map[string]interceptors.Limits{"nonsense": {}, "/a.B/C": {Floor: -7, StreamIdle: -8}}),
		interceptors.WithMaxDeadline(time.Second), interceptors.WithDefaultDeadline(2*time.Second),
		interceptors.AtEdge(nil))
	for _, want := range []string{`"nonsense": the name must be`, `"/a.B/C": field Floor is -7ns`, "field StreamIdle", "WithDefaultDeadline(2s): more than WithMaxDeadline(1s)", "AtEdge: function 1 is nil"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not report %q", err, want)
		}
	}
}

// One port may serve callers that are trusted and others that are not.
func TestEdgeTellsCallersApartByTheirPeer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts []interceptors.ServerOption
		want codes.Code
	}{
		"no edge":      {nil, codes.DeadlineExceeded},
		"all outside":  {[]interceptors.ServerOption{interceptors.AtEdge()}, codes.OK},
		"none outside": {[]interceptors.ServerOption{interceptors.AtEdge(func(*peer.Peer) bool { return false })}, codes.DeadlineExceeded},
		"this one outside": {[]interceptors.ServerOption{
			interceptors.AtEdge(func(p *peer.Peer) bool { return p.Addr == nil }, func(p *peer.Peer) bool { return p.Addr.Network() == "bufconn" }),
		}, codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &counter{}
			do := idempotent(serve(t, leaf.handle, newServer(t, tc.opts...).ServerOptions()...).dial())
			ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=7;a=1") // expired
			if err := do(ctx); status.Code(err) != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}
