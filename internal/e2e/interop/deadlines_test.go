package interop_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// clocked is a caller that writes its own time stamps, so that its messages look as late as a test wants.
type clocked struct {
	hop  *grpc.ClientConn
	next string
}

// call makes a call of which the reply must be back after left. It says that it was sent earlier than it is by late.
func (c clocked) call(t *testing.T, left, late time.Duration) error {
	t.Helper()
	s := time.Now().Add(-late).UnixMicro()
	value := fmt.Sprintf("1;d=%d;s=%d;c=00c0ffee00c0ffee;b=0;a=1", s+left.Microseconds(), s)
	return harness.Idempotent(c.hop)(metadata.AppendToOutgoingContext(t.Context(), nextKey, c.next, wire.ContextKey, value))
}

// arrival is how much time a call has left at the target of a hop: by gRPC, and by hop-context.
type arrival struct{ grpc, context time.Duration }

// target answers after a pause with a report that says that it has taken no time.
func target(t *testing.T, pause time.Duration) (address string, arrivals chan arrival) {
	t.Helper()
	arrivals = make(chan arrival, 10)
	address, _ = serve(t, func(ctx context.Context) error {
		a := arrival{-1, -1}
		if deadline, ok := ctx.Deadline(); ok {
			a.grpc = time.Until(deadline)
		}
		md, _ := metadata.FromIncomingContext(ctx)
		if h, ok := wire.ParseContext(md[wire.ContextKey][0]); ok {
			a.context = time.Duration(h.Deadline-h.Sent) * time.Microsecond
		}
		arrivals <- a
		time.Sleep(pause)
		_ = grpc.SetTrailer(ctx, metadata.Pairs(wire.ReportKey, "1;u=0;e=0"))
		return nil
	})
	return address, arrivals
}

// rounding is how much gRPC's C core, which Python uses, may add to grpc-timeout: it sends three digits.
const rounding = time.Second

func TestEveryHopCarriesTheDeadline(t *testing.T) {
	t.Parallel()
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			hop := k.start(t, settings{})
			within := func(what string, got, low, high time.Duration) {
				t.Helper()
				if got < low || got > high {
					t.Errorf("%s is %v, want %v to %v", what, got, low, high)
				}
			}

			next, arrivals := target(t, 0)
			c := clocked{dial(t, hop), next}
			if err := c.call(t, time.Minute, 0); err != nil {
				t.Fatal(err)
			}
			a := <-arrivals
			within("the gRPC deadline", a.grpc, 55*time.Second, time.Minute+rounding)
			within("the deadline of hop-context", a.context, 55*time.Second, time.Minute+2*time.Millisecond)

			if err := c.call(t, time.Minute, 20*time.Second); err != nil {
				t.Fatal(err)
			}
			a = <-arrivals
			within("the gRPC deadline of a late message", a.grpc, 35*time.Second, 40*time.Second+rounding)

			harness.WantError(t, c.call(t, -time.Second, 0), codes.DeadlineExceeded, "DEADLINE_EXPIRED")
			harness.WantError(t, c.call(t, 10*time.Second, 20*time.Second), codes.DeadlineExceeded, "DEADLINE_EXPIRED")
			if len(arrivals) > 0 {
				t.Error("an expired call has reached the target")
			}

			// A target that needs 100 ms more than it reports is far away, and the reply needs that time.
			next, arrivals = target(t, 100*time.Millisecond)
			c = clocked{dial(t, hop), next}
			shortest := time.Duration(math.MaxInt64)
			for range 3 {
				if err := c.call(t, time.Minute, 0); err != nil {
					t.Fatal(err)
				}
				a = <-arrivals
				shortest = min(shortest, a.context)
				within("the gRPC deadline", a.grpc, 55*time.Second, time.Minute+rounding)
			}
			within("the deadline of hop-context before the reserve", shortest, 55*time.Second, time.Minute-98*time.Millisecond) // d is rounded up, and s down
		})
	}
}
