package interceptors_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestConcurrentCallsOfOneRequestShareItsTokens(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &counter{fail: always(errUnavailable)}
		b := fixedBudget(budget.Burst(100))
		down := idempotent(serve(t, leaf.handle).dial(newClient(t, quickly(50), interceptors.WithBudget(b)).DialOptions()...))
		n := serve(t, func(ctx context.Context) error {
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() { _ = down(ctx) })
			}
			wg.Wait()
			return errUnavailable
		}, newServer(t).ServerOptions()...)
		var trailer metadata.MD
		_ = idempotent(n.dial())(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;b=7;a=1"), grpc.Trailer(&trailer))
		if calls := leaf.calls.Load(); calls != 17 || !strings.HasPrefix(trailer[wire.ReportKey][0], "1;u=7;") {
			t.Errorf("%d calls of the leaf, report %v; want 10 and 7 extra, and u=7", calls, trailer[wire.ReportKey])
		}
	})
}

func TestRequestThatSpawnsWorkOfItsOwnHasARootForIt(t *testing.T) {
	t.Parallel()
	ctx, end := budget.NewRoot(t.Context(), fixedBudget(budget.PerRequest(2)))
	leaf := &counter{fail: always(errUnavailable)}
	do := idempotent(serve(t, leaf.handle).dial(newClient(t, quick(), interceptors.WithBudget(fixedBudget())).DialOptions()...))
	_ = do(ctx)
	_ = do(ctx)
	if calls := leaf.calls.Load(); calls != 4 {
		t.Errorf("%d calls, want two and the root's two extra", calls)
	}
	end(false)
	_ = do(ctx) // the root has ended: the call is a root of its own
	if calls := leaf.calls.Load(); calls != 7 {
		t.Errorf("%d calls, want 7", calls)
	}
}

func TestTargetIsGuardedAgainstManyRoots(t *testing.T) {
	t.Parallel()
	leaf := &counter{fail: always(errUnavailable)}
	client := newClient(t, quick(), interceptors.WithBudget(fixedBudget(budget.Burst(5))))
	do := idempotent(serve(t, leaf.handle).dial(client.DialOptions()...))
	for range 100 {
		ctx, end := budget.NewRoot(t.Context(), budget.New(budget.Burst(100)))
		_ = do(ctx)
		end(false)
	}
	if calls := leaf.calls.Load(); calls != 105 {
		t.Errorf("%d calls, want 100 and the meter's 5", calls)
	}
}

func TestUsersCallOptionsSeeTheLastAttemptAlone(t *testing.T) {
	t.Parallel()
	var calls atomic.Int64
	n := serve(t, func(ctx context.Context) error {
		if calls.Add(1) == 1 {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("first", "1"))
			return errUnavailable
		}
		_ = grpc.SetHeader(ctx, metadata.Pairs("second", "2"))
		return nil
	})
	var (
		header, trailer metadata.MD
		from            peer.Peer
		finished        []error
	)
	do := idempotent(n.dial(newClient(t, quick()).DialOptions()...))
	err := do(t.Context(), grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from),
		grpc.OnFinish(func(err error) { finished = append(finished, err) }),
		grpc.OnFinish(func(err error) { finished = append(finished, err) }))
	if err != nil || len(header["second"]) != 1 || len(trailer["first"]) != 0 || from.Addr == nil {
		t.Errorf("%v, header %v, trailer %v, peer %v", err, header, trailer, from.Addr)
	}
	if len(finished) != 2 || finished[0] != nil || finished[1] != nil {
		t.Errorf("OnFinish ran with %v, want nil once each", finished)
	}
}

func TestInvalidKeyIsRefusedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	leaf := &counter{}
	do := write(serve(t, leaf.handle).dial(newClient(t).DialOptions()...))
	err := do(idempotency.WithKey(t.Context(), idempotency.Key(strings.Repeat("k", 256))))
	if status.Code(err) != codes.InvalidArgument || reason(err) != interceptors.ReasonKeyInvalid || leaf.calls.Load() != 0 {
		t.Errorf("%v (%s) after %d calls", err, reason(err), leaf.calls.Load())
	}
}

func TestAttemptsAreNumberedAndKeepTheirKey(t *testing.T) {
	t.Parallel()
	var (
		mu       sync.Mutex
		previous [][]string
		keys     [][]string
	)
	n := serve(t, func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		previous = append(previous, metadata.ValueFromIncomingContext(ctx, "grpc-previous-rpc-attempts"))
		keys = append(keys, metadata.ValueFromIncomingContext(ctx, idempotency.Header))
		return errUnavailable
	})
	_ = write(n.dial(newClient(t, quick()).DialOptions()...))(idempotency.WithKey(t.Context(), "order-17"))
	if len(previous) != 3 || len(previous[0]) != 0 || previous[1][0] != "1" || previous[2][0] != "2" {
		t.Errorf("previous attempts %v", previous)
	}
	for _, k := range keys {
		if len(k) != 1 || k[0] != "order-17" {
			t.Errorf("keys %v, want the same one on each attempt", keys)
		}
	}
}

// What a handler makes of a failure below, and how its caller is told.
func TestFailureThatAHopGaveUpIsMarked(t *testing.T) {
	t.Parallel()
	other := status.Error(codes.Internal, "translated")
	for name, tc := range map[string]struct {
		below   error                 // what the leaf answers
		handler func(err error) error // what the hop makes of it
		tokens  int                   // leased to the hop
		push    string
		wanting bool
	}{
		"given up, returned as it is":          {errUnavailable, func(err error) error { return err }, 2, "-1", false},
		"given up, translated":                 {errUnavailable, func(error) error { return other }, 2, "-1", false},
		"declined for want of tokens":          {errUnavailable, func(err error) error { return err }, 0, "-1", true},
		"no matter for retries":                {status.Error(codes.NotFound, ""), func(err error) error { return err }, 2, "-1", false},
		"no matter for retries, another error": {status.Error(codes.NotFound, ""), func(error) error { return errUnavailable }, 2, "", false},
		"no failure below":                     {nil, func(error) error { return errUnavailable }, 2, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaf := &counter{fail: always(tc.below)}
			down := idempotent(serve(t, leaf.handle).dial(newClient(t, quick()).DialOptions()...))
			n := serve(t, func(ctx context.Context) error { return tc.handler(down(ctx)) }, newServer(t).ServerOptions()...)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "hop-context", "1;b="+string(rune('0'+tc.tokens))+";a=1")
			var trailer metadata.MD
			if idempotent(n.dial())(ctx, grpc.Trailer(&trailer)) == nil {
				t.Fatal("the call succeeded")
			}
			if got := strings.Join(trailer["grpc-retry-pushback-ms"], ","); got != tc.push {
				t.Errorf("pushback %q, want %q", got, tc.push)
			}
			report := strings.Join(trailer["hop-report"], ",")
			if strings.HasSuffix(report, ";n=1") != tc.wanting || !strings.HasPrefix(report, "1;u=") {
				t.Errorf("report %q, want n=1: %v", report, tc.wanting)
			}
		})
	}
}

func TestFailureDeclinedForWantOfTokensIsRepeatedByWhoeverHoldsSome(t *testing.T) {
	t.Parallel()
	var leafCalls atomic.Int64
	n := serve(t, func(ctx context.Context) error {
		leafCalls.Add(1)
		if v := metadata.ValueFromIncomingContext(ctx, "hop-context"); len(v) == 1 && strings.Contains(v[0], "a=1") && leafCalls.Load() == 1 {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1", "hop-report", "1;u=0;e=1;n=1"))
			return errUnavailable
		}
		return nil
	})
	do := idempotent(n.dial(newClient(t, quick()).DialOptions()...))
	if err := do(t.Context()); err != nil || leafCalls.Load() != 2 {
		t.Errorf("%v after %d calls, want success with the second", err, leafCalls.Load())
	}
}

func TestOptionsAreValidatedTogether(t *testing.T) {
	t.Parallel()
	_, err := interceptors.NewClient(
		interceptors.WithBudget(nil),
		interceptors.WithReserve(-1),
		interceptors.WithMode(9),
		interceptors.WithPolicy(interceptors.MethodPolicies{
			"nonsense":           {},
			"/test.v1.Service/M": {Timeout: -1, Retry: &interceptors.RetryPolicy{MaxAttempts: -1, Codes: []codes.Code{codes.OK}, Backoff: interceptors.Backoff{Base: 2, Max: 1, Multiplier: 0.5, Jitter: 7}}},
		}),
		nil,
	)
	for _, want := range []string{"WithBudget", "WithReserve", "WithMode", `"nonsense"`, "Timeout", "MaxAttempts", "Codes", "Max 1ns", "Multiplier", "Jitter"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("client: %v does not name %s", err, want)
		}
	}
	_, err = interceptors.NewServer(interceptors.WithMaxDeadline(0), interceptors.WithDefaultDeadline(-1), interceptors.WithFloor(-1), interceptors.WithMode(-1), interceptors.WithPropagators(nil))
	for _, want := range []string{"WithMaxDeadline", "WithDefaultDeadline", "WithFloor", "WithMode", "WithPropagators"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("server: %v does not name %s", err, want)
		}
	}
	if _, err := interceptors.NewClient(interceptors.WithBudget(budget.New(budget.Burst(-1)))); err == nil || !strings.Contains(err.Error(), "Burst") {
		t.Errorf("a budget's own error is lost: %v", err)
	}
}

func TestPoliciesAreFoundByTheMostSpecificName(t *testing.T) {
	t.Parallel()
	m := interceptors.MethodPolicies{"/a.S/M": {Timeout: 1}, "/a.S/": {Timeout: 2}, "": {Timeout: 3}}
	for method, want := range map[string]time.Duration{"/a.S/M": 1, "/a.S/N": 2, "/b.S/M": 3, "odd": 3} {
		if got := m.ForMethod(method).Timeout; got != want {
			t.Errorf("%s: %v, want %v", method, got, want)
		}
	}
}

// budget4 is a budget of four tokens, one for each request.
func budget4() *budget.Budget { return fixedBudget(budget.Burst(4), budget.PerRequest(1)) }

// A failure for want of a token may be repeated by whoever holds one, unless
// another call of the same request failed for good.
func TestFailureForGoodOutweighsOneForWantOfATokenAlone(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		second []grpc.CallOption
		want   bool
	}{
		"the second call too for want of one": {nil, true},
		"the second call for good":            {[]grpc.CallOption{interceptors.NoRetry()}, false},
	} {
		down := idempotent(serve(t, func(context.Context) error { return errUnavailable }).dial(newClient(t, quick()).DialOptions()...))
		n := serve(t, func(ctx context.Context) error {
			_ = down(ctx)
			return down(ctx, tc.second...)
		}, newServer(t).ServerOptions()...)
		var trailer metadata.MD
		ctx := metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;b=0")
		_ = idempotent(n.dial())(ctx, grpc.Trailer(&trailer))
		r, ok := wire.ParseReport(trailer[wire.ReportKey][0])
		if !ok || r.NoTokens != tc.want || trailer["grpc-retry-pushback-ms"][0] != "-1" {
			t.Errorf("%s: report %+v, trailer %v; want wanting %v, and the mark", name, r, trailer, tc.want)
		}
	}
}

// A client for each connection has a bucket for each, and clients that share a
// budget have one bucket for a target. Either way an outage is not amplified.
func TestOutageWithAClientForEachConnection(t *testing.T) {
	t.Parallel()
	const burst = 3 // the default
	shared := budget.New(budget.MinPerSecond(0))
	for name, tc := range map[string]struct {
		opts []interceptors.ClientOption
		most int64 // extra attempts
	}{
		"each with a budget of its own": {[]interceptors.ClientOption{quick()}, 10 * burst},
		"all with one budget":           {[]interceptors.ClientOption{quick(), interceptors.WithBudget(shared)}, burst},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				leaf := &counter{fail: always(errUnavailable)}
				n := serve(t, leaf.handle)
				const connections, requests = 10, 100
				for range connections {
					do := idempotent(n.dial(newClient(t, tc.opts...).DialOptions()...))
					for range requests {
						_ = do(t.Context())
					}
				}
				if extra := leaf.calls.Load() - connections*requests; extra != tc.most {
					t.Errorf("%d extra calls of the leaf, want %d", extra, tc.most)
				}
			})
		})
	}
}

// A process that has just been started has too few tokens to decide for the hops
// above it.
func TestEmptyBucketMakesAFailureFinalUnlessItIsNew(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]bool{0: true, 2 * time.Second: false} {
		synctest.Test(t, func(t *testing.T) {
			b := fixedBudget(budget.Burst(0))
			down := idempotent(serve(t, (&counter{fail: always(errUnavailable)}).handle).dial(newClient(t, quick(), interceptors.WithBudget(b)).DialOptions()...))
			n := serve(t, func(ctx context.Context) error { return down(ctx) }, newServer(t).ServerOptions()...)
			do := idempotent(n.dial())
			_ = do(t.Context())
			time.Sleep(age)
			var trailer metadata.MD
			_ = do(metadata.AppendToOutgoingContext(t.Context(), wire.ContextKey, "1;b=5"), grpc.Trailer(&trailer))
			if r, ok := wire.ParseReport(trailer[wire.ReportKey][0]); !ok || r.NoTokens != want || trailer["grpc-retry-pushback-ms"][0] != "-1" {
				t.Errorf("%v after the first call: report %+v, trailer %v; want n=1: %v", age, r, trailer, want)
			}
		})
	}
}
