package telemetry

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Without providers, recording a call allocates nothing on either side, whether the call succeeds or
// fails.
func TestNothingIsAllocatedWithoutProviders(t *testing.T) { //nolint:paralleltest // it counts allocations
	settings := &Settings{Logger: slog.New(slog.DiscardHandler)}
	client, err := NewClient(settings, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewServer(settings, "memory")
	if err != nil {
		t.Fatal(err)
	}
	ctx, failure := t.Context(), status.Error(codes.Unavailable, "down")
	const method = "hopbound.test.v1.TestService/Idempotent"
	outgoing, incoming, target := client.NewMethod(method, true), server.NewMethod(method, true), NewTarget("dns:///t")
	var ( // in a call, they are parts of other state
		c Call
		a Attempt
	)
	for _, err := range []error{nil, failure} {
		got := testing.AllocsPerRun(100, func() {
			ctx := client.Start(ctx, &c, outgoing, target, nil, false)
			c.Root()
			a = Attempt{Number: 1, Lent: 9}
			ctx, carrier := c.StartAttempt(ctx, &a)
			c.Paused(time.Second, false, err)
			c.Hedged(time.Second, 2)
			c.Rejected("R")
			c.Malformed("k")
			c.Overreported()
			c.Messages(&a, 1, 1, "")
			c.EndAttempt(ctx, &a, &AttemptEnd{Err: err, Decision: Retried})
			c.End(&CallEnd{Err: err, Attempts: 2, Hedged: true, Paused: time.Second})
			recordIncoming(ctx, server, incoming, err)
			if c.Recorded() || a.recorded() != nil || carrier != nil {
				t.Errorf("recorded: %v, %v", c.span, a.recorded())
			}
		})
		if got != 0 || outgoing.spans != nil {
			t.Errorf("%v allocations", got)
		}
	}
}

func recordIncoming(ctx context.Context, server *Server, m *Method, err error) {
	var in Incoming
	ctx = server.Start(ctx, &in, m, false, Arrival{Attempt: 1, Lent: 9, HasLent: true})
	in.Arrived(ctx, Time{time.Second, true}, Time{time.Second, true}, 0)
	in.Rejected(ctx, "R")
	in.Malformed(ctx, "k")
	in.KeyedCall(ctx, "key", KeyExecuted, true)
	in.Waits()
	in.RunStarted(ctx, true)()
	in.OutcomeStored(ctx)
	in.StoreStep(ctx, "key", StepExtend, time.Second, idempotency.ErrLeaseLost)
	in.End(ctx, err, 0, time.Second, -time.Second)
}
