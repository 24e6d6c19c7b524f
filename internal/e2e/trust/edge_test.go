package trust_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestEdgeTrustsItsCallersWithNothing(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	b := harness.FixedBudget(budget.PerRequest(1), budget.Burst(10))
	down := harness.Idempotent(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t, harness.FastRetryUpTo(50), interceptors.WithBudget(b)).DialOptions()...))
	n := harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, harness.NewServer(t, interceptors.AtEdge()).ServerOptions()...)
	// A caller that says its time is over, and that brings a thousand tokens.
	ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=1000;a=1")
	var trailer metadata.MD
	err := harness.Idempotent(n.Dial())(ctx, grpc.Trailer(&trailer))
	if status.Code(err) != codes.Unavailable || leaf.Calls.Load() != 2 || harness.Balance(b) != 9 {
		t.Errorf("%v after %d calls, balance %v; want UNAVAILABLE, 2 and 9", err, leaf.Calls.Load(), harness.Balance(b))
	}
	if !strings.HasPrefix(trailer["hop-report"][0], "1;u=0;") {
		t.Errorf("report %v: the caller is charged for the edge's own budget", trailer["hop-report"])
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
			leaf := &harness.Counter{}
			do := harness.Idempotent(harness.Serve(t, leaf.Handle, harness.NewServer(t, tc.opts...).ServerOptions()...).Dial())
			ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;d=5;s=10;c=000000000000000a;b=7;a=1") // expired
			if err := do(ctx); status.Code(err) != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// At the edge a caller's trace is linked to, and not joined.
func TestEdgeBeginsATraceOfItsOwn(t *testing.T) {
	t.Parallel()
	recorder, tracer := harness.Traced()
	n := harness.Serve(t, func(context.Context) error { return nil }, harness.NewServer(t, tracer, interceptors.AtEdge()).ServerOptions()...)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-11111111111111111111111111111111-2222222222222222-01")
	if err := harness.Idempotent(n.Dial())(ctx); err != nil {
		t.Fatal(err)
	}
	span := recorder.Ended()[0]
	if span.Parent().IsValid() || span.SpanContext().TraceID().String() == strings.Repeat("1", 32) {
		t.Errorf("the span is in trace %v below %v", span.SpanContext().TraceID(), span.Parent().SpanID())
	}
	if links := span.Links(); len(links) != 1 || links[0].SpanContext.TraceID().String() != strings.Repeat("1", 32) {
		t.Errorf("links %v, want the caller's trace", links)
	}
}
