package interceptors

import (
	"strconv"
	"testing"
	"time"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// A client that calls ever new targets forgets those it called least recently, and
// treats the 5,000th like the first.
func TestClientKnowsABoundedNumberOfTargets(t *testing.T) {
	t.Parallel()
	client, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		name := "passthrough:///" + strconv.Itoa(i)
		cc, err := grpc.NewClient(name, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		known := client.targetOf(cc)
		if known.label != name || client.targetOf(cc) != known {
			t.Fatalf("target %d is labelled %q, or not remembered", i, known.label)
		}
		_ = cc.Close()
	}
	if got := len(client.targets.all()); got != targetLimit {
		t.Errorf("the client remembers %d targets, want %d", got, targetLimit)
	}
}

// Without providers all that would make spans, attributes and measurements of a
// call, at both ends, allocates nothing, whether it succeeds or fails.
func TestNothingIsAllocatedWithoutProviders(t *testing.T) { //nolint:paralleltest // it counts allocations
	client, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServer()
	if err != nil {
		t.Fatal(err)
	}
	ctx, failure := t.Context(), status.Error(codes.Unavailable, "down")
	m := newMethod("/hopbound.test.v1.TestService/Idempotent", nil)
	k := &call{Client: client, method: m, ctx: ctx, target: client.targetOf(nil)}
	k.last = &k.first
	in := &incoming{Server: server, method: m}
	in.request.in(ctx)
	var now time.Time
	for _, err := range []error{nil, failure} {
		got := testing.AllocsPerRun(100, func() {
			_ = k.startAttempt(k.startCall(ctx), k.last)
			_ = k.trace.context(ctx, k.maker)
			k.tracePause(k.last, err)
			k.refused(ReasonDeadlineExpired)
			k.malformed(wire.ContextKey)
			k.endAttempt(k.last, err, retried)
			k.endCall(err)
			_ = in.startServer(ctx, wire.Context{})
			in.traceArrival(time.Second, 0)
			in.countArrival(ctx, time.Second)
			in.refused(ctx, ReasonDeadlineExpired)
			in.malformed(ctx, wire.ContextKey)
			in.countEnd(err, now)
			in.endServer(err, 0)
		})
		if got != 0 || m.spans != nil || k.span != nil || in.span != nil {
			t.Errorf("%v allocations, spans %v and %v", got, k.span, in.span)
		}
	}
}
