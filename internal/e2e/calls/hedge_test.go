package calls_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// stalling is a handler that takes one unit, and a hundred for one call in
// twenty.
func stalling(calls *atomic.Int64, unit time.Duration) harness.Handler {
	return func(ctx context.Context) error {
		took := unit
		if calls.Add(1)%20 == 10 {
			took = 100 * unit
		}
		select {
		case <-time.After(took):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// measure makes calls one after another, and returns the median and the 99th
// percentile of what they took.
func measure(t testing.TB, do harness.Call, calls int) (median, p99 time.Duration) {
	t.Helper()
	took := make([]time.Duration, calls)
	for i := range took {
		began := time.Now()
		if err := do(t.Context()); err != nil {
			t.Fatal(err)
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[calls/2], took[calls*99/100]
}

// A server that stalls one call in twenty for a hundred times as long: the 99th
// percentile falls to less than three medians, for at most 6 % more calls.
func TestHedgingCutsTheTailOffAMethodThatStalls(t *testing.T) {
	t.Parallel()
	for name, delay := range map[string]time.Duration{"fixed delay": 15 * ms, "95th percentile": interceptors.HedgeAtP95} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var served atomic.Int64
				n := harness.Serve(t, stalling(&served, 10*ms), harness.NewServer(t).ServerOptions()...)
				hedged := harness.Idempotent(n.Dial(harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{Delay: delay})).DialOptions()...))
				if delay == interceptors.HedgeAtP95 { // it must learn first
					measure(t, hedged, 200)
				}
				served.Store(0)
				const calls = 2000
				median, p99 := measure(t, hedged, calls)
				extra := float64(served.Load())/calls - 1
				t.Logf("hedged: median %v, p99 %v, %.1f %% more calls", median, p99, 100*extra)
				if p99 >= 3*median || extra > 0.06 {
					t.Errorf("p99 %v for a median of %v and %.1f %% more calls, want less than three medians and at most 6 %%", p99, median, 100*extra)
				}
				plain := harness.Idempotent(n.Dial(harness.NewClient(t).DialOptions()...))
				if _, p99 := measure(t, plain, 400); p99 < 50*median {
					t.Errorf("without hedging p99 is %v: the server does not stall", p99)
				}
			})
		})
	}
}

// Attempts that were given up count as slow, though nobody knows how slow: if
// only good replies counted, twice as many calls would be hedged.
func TestAttemptsThatWereGivenUpCountAsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		n := harness.Serve(t, func(ctx context.Context) error {
			took, i := 10*ms, served.Add(1)
			switch {
			case i%25 == 7:
				took = 30 * ms
			case i%20 == 13:
				took = time.Second
			}
			select {
			case <-time.After(took):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, harness.NewServer(t).ServerOptions()...)
		do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{Delay: interceptors.HedgeAtP95})).DialOptions()...))
		measure(t, do, 4000)
		served.Store(0)
		const calls = 2000
		measure(t, do, calls)
		if extra := float64(served.Load())/calls - 1; extra > 0.07 {
			t.Errorf("%.1f %% more calls, want some 5 %%", 100*extra)
		}
	})
}

// Without a token for it, no hedge is made: one plain call, however long.
func TestHedgingWithoutTokensIsOnePlainCall(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]interceptors.ClientOption{
		"an empty budget": interceptors.WithBudget(budget.New(budget.Ratio(0), budget.MinPerSecond(0), budget.Burst(0))),
		"none granted":    interceptors.WithBudget(budget.New(budget.PerRequest(0))),
	} {
		synctest.Test(t, func(t *testing.T) {
			var served atomic.Int64
			n := harness.Serve(t, stalling(&served, 10*ms), harness.NewServer(t).ServerOptions()...)
			const calls = 100
			_, p99 := measure(t, harness.Idempotent(n.Dial(harness.NewClient(t, opt, harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 5, Delay: ms})).DialOptions()...)), calls)
			if served.Load() != calls || p99 != time.Second {
				t.Errorf("%s: %d calls were served of %d, p99 %v", name, served.Load(), calls, p99)
			}
		})
	}
}

// Hedges are paid from what the request holds, and what the first attempt leases
// leaves a token for each.
func TestHedgesArePaidFromTheRequestsTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var leased []string
		n := harness.Serve(t, func(ctx context.Context) error {
			mu.Lock()
			leased = append(leased, harness.HeaderField(ctx, "b"))
			mu.Unlock()
			<-ctx.Done()
			return ctx.Err()
		}, harness.NewServer(t).ServerOptions()...)
		b := harness.FixedBudget(budget.PerRequest(3), budget.Burst(20))
		do := harness.Idempotent(n.Dial(harness.NewClient(t, interceptors.WithBudget(b), harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 10, Delay: ms})).DialOptions()...))
		_ = harness.Within(t, do, time.Second)
		mu.Lock()
		defer mu.Unlock()
		if !slices.Equal(leased, []string{"0", "0", "0", "0"}) {
			t.Errorf("attempts leased %v tokens, want four attempts of none: three tokens are three hedges", leased)
		}
		if harness.Balance(b) > 18 { // and a little that time has earned
			t.Errorf("balance %v, want three less than 20", harness.Balance(b))
		}
	})
}

// What ends an attempt decides on the next: another at once after a failure
// that is not fatal, none after one that is, and what the server says.
func TestHedgingAfterAFailure(t *testing.T) {
	t.Parallel()
	notFound := status.Error(codes.NotFound, "")
	pushing := func(text string) harness.Handler {
		return func(ctx context.Context) error {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", text))
			return harness.ErrUnavailable
		}
	}
	fail := func(err error) harness.Handler { return func(context.Context) error { return err } }
	after := func(d time.Duration, h harness.Handler) harness.Handler {
		return func(ctx context.Context) error { time.Sleep(d); return h(ctx) }
	}
	for name, tc := range map[string]struct {
		attempts []harness.Handler // what each of them meets
		want     codes.Code
		served   int64
		took     time.Duration
	}{
		"one that is not fatal":             {[]harness.Handler{fail(harness.ErrUnavailable), fail(nil)}, codes.OK, 2, 0},
		"one that is fatal":                 {[]harness.Handler{fail(notFound), fail(nil)}, codes.NotFound, 1, 0},
		"all of them":                       {[]harness.Handler{fail(harness.ErrUnavailable), fail(harness.ErrUnavailable), fail(harness.ErrUnavailable)}, codes.Unavailable, 3, 0},
		"fatal while another is under way":  {[]harness.Handler{after(time.Hour, fail(nil)), fail(notFound)}, codes.NotFound, 2, 100 * ms},
		"do not retry":                      {[]harness.Handler{pushing("-1"), fail(nil)}, codes.Unavailable, 1, 0},
		"do not retry, another under way":   {[]harness.Handler{after(150*ms, fail(nil)), pushing("-1"), fail(nil)}, codes.OK, 2, 150 * ms},
		"retry later":                       {[]harness.Handler{pushing("700"), fail(nil)}, codes.OK, 2, 700 * ms},
		"retry later, another under way":    {[]harness.Handler{after(time.Hour, fail(nil)), pushing("700"), fail(nil)}, codes.OK, 3, 800 * ms},
		"unparsable":                        {[]harness.Handler{pushing("soon"), fail(nil)}, codes.Unavailable, 1, 0},
		"first one that is slow wins":       {[]harness.Handler{after(150*ms, fail(nil)), after(time.Hour, fail(nil))}, codes.OK, 2, 150 * ms},
		"none: a hedge after the delay":     {[]harness.Handler{after(time.Hour, fail(nil)), fail(nil)}, codes.OK, 2, 100 * ms},
		"none: a hedge of the hedge, later": {[]harness.Handler{after(time.Hour, fail(nil)), after(time.Hour, fail(nil)), fail(nil)}, codes.OK, 3, 200 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var served atomic.Int64
				n := harness.Serve(t, func(ctx context.Context) error {
					i := served.Add(1) - 1
					if int(i) >= len(tc.attempts) {
						return status.Error(codes.Internal, "one attempt too many")
					}
					return tc.attempts[i](ctx)
				}, harness.NewServer(t).ServerOptions()...)
				n.AllowHanging()
				client := harness.NewClient(t, interceptors.WithBudget(harness.FixedBudget()), harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 3, Delay: 100 * ms}))
				do := harness.Idempotent(n.Dial(client.DialOptions()...))
				began := time.Now()
				err := do(t.Context())
				if status.Code(err) != tc.want || served.Load() != tc.served || time.Since(began) != tc.took {
					t.Errorf("%v after %v with %d attempts, want %v after %v with %d", err, time.Since(began), served.Load(), tc.want, tc.took, tc.served)
				}
			})
		})
	}
}

// Each attempt has a reply and options of its own, and the user gets the
// winner's.
func TestReplyAndCallOptionsAreTheWinners(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		n := harness.NewNode(t, harness.NewServer(t).ServerOptions()...)
		testv1.RegisterTestServiceServer(n.Server, answering(func(ctx context.Context) (string, error) {
			if served.Add(1) == 1 {
				_ = grpc.SetHeader(ctx, metadata.Pairs("x", "loser"))
				<-ctx.Done()
				return "loser", ctx.Err()
			}
			_ = grpc.SetHeader(ctx, metadata.Pairs("x", "winner"))
			_ = grpc.SetTrailer(ctx, metadata.Pairs("x", "winner"))
			return "winner", nil
		}))
		n.Start()
		client := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{Delay: ms})).DialOptions()...))
		var header, trailer metadata.MD
		var p peer.Peer
		var finished []error
		reply, err := client.Idempotent(t.Context(), &testv1.IdempotentRequest{Text: "r"},
			grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p), grpc.OnFinish(func(err error) { finished = append(finished, err) }))
		if err != nil || reply.GetText() != "winner" {
			t.Fatalf("got %v and %v", reply, err)
		}
		if !slices.Equal(header["x"], []string{"winner"}) || !slices.Equal(trailer["x"], []string{"winner"}) || p.Addr == nil {
			t.Errorf("header %v, trailer %v, peer %v; want the winner's", header, trailer, p)
		}
		if len(finished) != 1 || finished[0] != nil {
			t.Errorf("OnFinish was told %v, want one success", finished)
		}
	})
}

// answering serves Idempotent with a text.
type answer struct {
	testv1.UnimplementedTestServiceServer
	text func(ctx context.Context) (string, error)
}

func answering(text func(ctx context.Context) (string, error)) answer { return answer{text: text} }

func (a answer) Idempotent(ctx context.Context, _ *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	text, err := a.text(ctx)
	return &testv1.IdempotentResponse{Text: text}, err
}

// A call that is not safe to repeat is not hedged, whatever the policy says.
func TestUnsafeCallIsNotHedged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		n := harness.Serve(t, stalling(&served, 10*ms), harness.NewServer(t).ServerOptions()...)
		client := harness.NewClient(t, interceptors.WithStrictSafety(), harness.Hedging(interceptors.HedgePolicy{Delay: ms}))
		if _, p99 := measure(t, harness.Write(n.Dial(client.DialOptions()...)), 40); served.Load() != 40 || p99 != time.Second {
			t.Errorf("%d calls were served of 40, p99 %v", served.Load(), p99)
		}
	})
}

// A server-streaming call is hedged until a server begins to answer.
func TestServerStreamIsHedgedUntilItAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		recorder, tracer := harness.Traced()
		var served atomic.Int64
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			texts, err := s.Requests()
			if err != nil {
				return err
			}
			if served.Add(1) == 1 {
				<-ss.Context().Done()
				return ss.Context().Err()
			}
			for _, text := range []string{texts[0], "b", "c"} {
				if err := s.Send(text); err != nil {
					return err
				}
				time.Sleep(time.Minute) // longer than any delay
			}
			return nil
		}, harness.NewServer(t).ServerOptions()...)
		b := harness.FixedBudget(budget.Burst(20))
		k := harness.Kinds()[0]
		cc := n.Dial(harness.NewClient(t, tracer, interceptors.WithBudget(b), harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 3, Delay: 100 * ms})).DialOptions()...)
		var trailer metadata.MD
		got, err := k.Exchange(t.Context(), cc, []string{"a"}, grpc.Trailer(&trailer))
		if err != nil || !slices.Equal(got, []string{"a", "b", "c"}) || served.Load() != 2 {
			t.Errorf("%q and %v after %d attempts", got, err, served.Load())
		}
		harness.Compare(t, harness.Tree(recorder.Ended()), `
hopbound.call Watch [internal] Unset {attempts=2 decision=done rpc.response.status_code=OK}
  * hopbound.hedge {attempt=2 backoff_ms=100}
  Watch [client] Unset {attempt=1 budget.leased=1 budget.lost=1 decision=hedge_lost hedge=lost rpc.response.status_code=CANCELLED}
  Watch [client] Unset {attempt=2 budget.leased=0 budget.used=0 committed=header decision=done hedge=won messages.received=3 messages.sent=1 rpc.response.status_code=OK}
`)
	})
}

// Streams of requests are not hedged: theirs is a plain call.
func TestStreamOfRequestsIsNotHedged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		n := harness.ServeStreams(t, func(s harness.Side, ss grpc.ServerStream) error {
			served.Add(1)
			time.Sleep(time.Minute)
			return harness.ReplyJoined(s, ss)
		}, harness.NewServer(t).ServerOptions()...)
		cc := n.Dial(harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{Delay: ms})).DialOptions()...)
		for _, k := range harness.Kinds()[1:] {
			served.Store(0)
			if _, err := k.Exchange(t.Context(), cc, []string{"a", "b"}); err != nil || served.Load() != 1 {
				t.Errorf("%s: %v after %d attempts, want one", k.Name, err, served.Load())
			}
		}
	})
}

// A hedge in the middle of a chain is paid by the root, and in an outage hedges
// multiply nothing.
func TestHedgesDownAChainStayWithinTheBudget(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	next := harness.Serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	opt := harness.Hedging(interceptors.HedgePolicy{MaxAttempts: 3, Delay: 0})
	for range 3 {
		down := harness.Idempotent(next.Dial(harness.NewClient(t, opt).DialOptions()...))
		next = harness.Serve(t, func(ctx context.Context) error { return down(ctx) }, harness.NewServer(t).ServerOptions()...)
	}
	b := budget.New(budget.Ratio(0.2), budget.MinPerSecond(0), budget.Burst(10))
	do := harness.Idempotent(next.Dial(harness.NewClient(t, opt, interceptors.WithBudget(b)).DialOptions()...))
	const requests = 500
	for range requests {
		_ = do(t.Context())
	}
	if extra := leaf.Calls.Load() - requests; extra > 10 {
		t.Errorf("%d extra calls of the leaf, paid with 10 tokens", extra)
	}
}

// A hedge adds to what a slow target has to do: of the share for slow targets it
// takes two tokens.
func TestHedgesAreFewerThanRetries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var served atomic.Int64
		n := harness.Serve(t, func(context.Context) error {
			served.Add(1)
			time.Sleep(time.Second)
			return nil
		}, harness.NewServer(t).ServerOptions()...)
		n.AllowHanging()
		b := harness.FixedBudget(budget.Burst(3))
		do := harness.Idempotent(n.Dial(harness.NewClient(t, harness.Hedging(interceptors.HedgePolicy{Delay: 100 * ms}), interceptors.WithBudget(b)).DialOptions()...))
		for range 5 {
			if err := do(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if served.Load() != 6 || harness.Balance(b) != 2 {
			t.Errorf("%d attempts of 5 slow calls, and %v tokens left of 3; want one hedge", served.Load(), harness.Balance(b))
		}
	})
}
