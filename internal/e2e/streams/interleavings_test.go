package streams_test

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// erratic is a server's stream that does anything a server may: it reads some,
// sends some, waits, fails at any point, or has its connections cut.
func erratic(n **harness.Node, seed *atomic.Uint64) harness.StreamHandler {
	return func(s harness.Side, ss grpc.ServerStream) error {
		rng := rand.New(rand.NewPCG(seed.Add(1), 1))
		if s.NewReceived("") != nil && rng.IntN(3) == 0 { // fails at once
			return harness.ErrUnavailable
		}
		for range rng.IntN(6) {
			switch rng.IntN(6) {
			case 0:
				_, _ = s.Requests()
			case 1:
				_, _ = s.Recv() // there may be no more
			case 2, 3:
				if err := s.Send(strings.Repeat("r", rng.IntN(2000))); err != nil {
					return err
				}
			case 4:
				select {
				case <-time.After(time.Duration(rng.IntN(30)) * ms):
				case <-ss.Context().Done():
				}
			case 5:
				if rng.IntN(4) == 0 {
					(*n).Cut()
				}
			}
		}
		if rng.IntN(3) == 0 {
			return status.Error(codes.Unavailable, "at the end")
		}
		return nil
	}
}

// TestThousandRandomInterleavingsOfEachKind sends and receives from two
// goroutines while everything goes wrong, in any order. The race detector and
// the bubble, which waits for all of its goroutines, see what is wrong with it;
// the budget and the spans, what was left.
func TestThousandRandomInterleavingsOfEachKind(t *testing.T) {
	t.Parallel()
	for _, hedged := range []bool{false, true} {
		for _, k := range harness.Kinds() {
			if hedged && k.Desc.ClientStreams {
				continue
			}
			name := k.Name
			if hedged {
				name += " hedged"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { interleave(t, k, hedged) })
			})
		}
	}
}

func interleave(t *testing.T, k harness.Kind, hedged bool) {
	t.Helper()
	spans := &harness.SpanCounter{}
	tracer := interceptors.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	var (
		seed atomic.Uint64
		n    *harness.Node
	)
	n = harness.ServeStreams(t, erratic(&n, &seed), harness.NewServer(t, tracer).ServerOptions()...)
	p := interceptors.Policy{
		AttemptTimeout: 40 * ms,
		Retry:          &interceptors.RetryPolicy{MaxAttempts: 4, Backoff: interceptors.Backoff{Base: 5 * ms, Max: 5 * ms}},
	}
	if hedged {
		p.Retry, p.Hedge = nil, &interceptors.HedgePolicy{MaxAttempts: 3, Delay: 5 * ms}
	}
	b := budget.New(budget.Burst(100_000), budget.Ratio(0), budget.MinPerSecond(0))
	cc := n.Dial(harness.NewClient(t, tracer, harness.Policy(p), interceptors.WithBudget(b), interceptors.WithStreamBuffer(3000, 1<<20)).DialOptions()...)
	var finished, succeeded atomic.Int64
	const calls, workers = 1000, 20
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 2))
			for range calls / workers {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rng.IntN(200))*ms)
				if rng.IntN(4) == 0 {
					time.AfterFunc(time.Duration(rng.IntN(50))*ms, cancel)
				}
				if converse(ctx, k, cc, rng, &finished) == nil {
					succeeded.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	time.Sleep(time.Minute) // of virtual time: whatever was under way has ended
	if got := finished.Load(); got != calls {
		t.Errorf("%d calls have finished of %d", got, calls)
	}
	if s, e := spans.Started.Load(), spans.Ended.Load(); s != e || s < 2*calls {
		t.Errorf("%d spans were started, and %d ended", s, e)
	}
	if spent := 100_000 - harness.Balance(b); spent <= 0 || spent > 4*calls {
		t.Errorf("%v tokens are gone after %d calls of at most 4", spent, calls)
	}
	if succeeded.Load() == 0 || succeeded.Load() == calls {
		t.Errorf("%d of %d calls have succeeded: the test shows less than it says", succeeded.Load(), calls)
	}
	t.Logf("%d of %d succeeded, %v tokens spent", succeeded.Load(), calls, 100_000-harness.Balance(b))
}

// converse makes one streaming call: one goroutine sends, another receives, and
// either may stop in the middle.
func converse(ctx context.Context, k harness.Kind, cc *grpc.ClientConn, rng *rand.Rand, finished *atomic.Int64) error {
	s, err := k.Open(ctx, cc, grpc.OnFinish(func(error) { finished.Add(1) }))
	if err != nil {
		return err
	}
	sends, half, receives, look := 1, true, rng.IntN(8), rng.IntN(3)
	if k.Desc.ClientStreams {
		sends, half = rng.IntN(8), rng.IntN(5) > 0
	}
	sizes := make([]int, sends)
	for i := range sizes {
		sizes[i] = rng.IntN(1200)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, size := range sizes {
			if s.Send(strings.Repeat("q", size)) != nil {
				break
			}
		}
		if half {
			_ = s.CloseSend()
		}
	})
	if !k.Desc.ClientStreams {
		wg.Wait() // its request comes first
	}
	if look == 0 {
		_, _ = s.Header()
	}
	for range receives {
		if _, err = s.Recv(); err != nil || !k.Desc.ServerStreams {
			break
		}
	}
	_ = s.Context()
	if err != nil && status.Code(err) != codes.Internal { // which gRPC says of a reply too many, before it is over
		_ = s.Trailer()
	}
	wg.Wait()
	return err
}
