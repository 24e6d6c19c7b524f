package interceptors_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// serveAll runs a server whose methods, unary and streaming, have one body.
func serveAll(t testing.TB, body handler, opts ...grpc.ServerOption) *node {
	t.Helper()
	n := newNode(t, opts...)
	desc := streamingService(func(s side, ss grpc.ServerStream) error {
		if _, err := s.requests(); err != nil {
			return err
		}
		if err := body(ss.Context()); err != nil {
			return err
		}
		return s.send("reply")
	})
	desc.Methods = []grpc.MethodDesc{{
		MethodName: "Idempotent",
		Handler: func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			req := &testv1.IdempotentRequest{}
			if err := decode(req); err != nil {
				return nil, err
			}
			run := func(ctx context.Context, _ any) (any, error) { return &testv1.IdempotentResponse{}, body(ctx) }
			if interceptor == nil {
				return run(ctx, req)
			}
			return interceptor(ctx, req, &grpc.UnaryServerInfo{FullMethod: testv1.TestService_Idempotent_FullMethodName}, run)
		},
	}}
	n.server.RegisterService(desc, nil)
	n.start()
	return n
}

// callAny makes a call of any kind.
func callAny(ctx context.Context, cc *grpc.ClientConn) error {
	all := kinds()
	if i := rand.IntN(len(all) + 1); i < len(all) {
		_, err := all[i].exchange(ctx, cc, []string{"request"})
		return err
	}
	return idempotent(cc)(ctx)
}

// grove counts what reaches the servers of random call trees.
type grove struct {
	calls atomic.Int64 // for names
	mu    sync.Mutex
	seen  map[string]map[string]int // attempts by root and call
}

// enter counts an attempt of a call that has reached a server.
func (g *grove) enter(ctx context.Context) (root string) {
	root = metadata.ValueFromIncomingContext(ctx, "x-root")[0]
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.seen[root] == nil {
		g.seen[root] = map[string]int{}
	}
	g.seen[root][metadata.ValueFromIncomingContext(ctx, "x-call")[0]]++
	return root
}

// call makes a call of any kind with a name of its own.
func (g *grove) call(ctx context.Context, root string, cc *grpc.ClientConn) error {
	return callAny(metadata.NewOutgoingContext(ctx, metadata.Pairs("x-root", root, "x-call", strconv.FormatInt(g.calls.Add(1), 10))), cc)
}

// Down trees of calls of every kind, hedged or repeated, one after another or at
// once, a request makes no more extra attempts than its tokens, and all of them
// no more than the purse has paid for. No reply is lost here, but to hedges.
func TestRequestsOfAllKindsKeepToTheirTokens(t *testing.T) {
	t.Parallel()
	retry := &interceptors.RetryPolicy{MaxAttempts: 4, Backoff: interceptors.Backoff{Base: ms, Max: ms}}
	for name, p := range map[string]interceptors.Policy{
		"retries":           {Retry: retry},
		"hedges":            {Hedge: &interceptors.HedgePolicy{MaxAttempts: 3, Delay: 3 * ms}},
		"hedges at once":    {Hedge: &interceptors.HedgePolicy{MaxAttempts: 2}},
		"shared timeouts":   {Retry: retry, AttemptTimeout: interceptors.AttemptTimeoutShared, Timeout: time.Minute},
		"timeout of a hour": {Retry: retry, Timeout: time.Hour},
	} {
		for _, fail := range []int{0, 20, 70, 100} {
			t.Run(fmt.Sprintf("%s, %d %% fail", name, fail), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { growTrees(t, p, fail) })
			})
		}
	}
}

func growTrees(t *testing.T, p interceptors.Policy, fail int) {
	t.Helper()
	g := &grove{seen: map[string]map[string]int{}}
	next := serveAll(t, func(ctx context.Context) error {
		g.enter(ctx)
		time.Sleep(time.Duration(rand.IntN(8)) * ms)
		if rand.IntN(100) < fail {
			return errUnavailable
		}
		return nil
	}, newServer(t).ServerOptions()...)
	for range 3 {
		cc := next.dial(newClient(t, policy(p)).DialOptions()...)
		next = serveAll(t, func(ctx context.Context) error {
			root := g.enter(ctx)
			var wg sync.WaitGroup
			errs := make([]error, 1+rand.IntN(2))
			for i := range errs {
				if rand.IntN(2) == 0 {
					wg.Go(func() { errs[i] = g.call(ctx, root, cc) })
				} else {
					errs[i] = g.call(ctx, root, cc)
				}
			}
			wg.Wait()
			for _, err := range errs {
				if err != nil && rand.IntN(4) == 0 {
					return status.Error(codes.Internal, "what the handler makes of it")
				}
				if err != nil {
					return err
				}
			}
			return nil
		}, newServer(t).ServerOptions()...)
	}
	const requests, granted, held = 100, 3, 60
	b := purse(budget.PerRequest(granted), budget.Burst(held))
	cc := next.dial(newClient(t, policy(p), interceptors.WithBudget(b)).DialOptions()...)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range requests / 4 {
				_ = g.call(t.Context(), fmt.Sprintf("%d/%d", w, i), cc)
			}
		})
	}
	wg.Wait()
	time.Sleep(time.Minute)
	total := 0
	for root, calls := range g.seen {
		extra := 0
		for _, attempts := range calls {
			extra += attempts - 1
		}
		if extra > granted {
			t.Errorf("request %s made %d extra attempts with %d tokens", root, extra, granted)
		}
		total += extra
	}
	spent := held - b.Balance()
	if float64(total) > spent || spent > held {
		t.Errorf("%d extra attempts and %v tokens spent of %d", total, spent, held)
	}
	if fail > 0 && total == 0 {
		t.Error("no extra attempts: the test shows nothing")
	}
	t.Logf("%d extra attempts, %v tokens spent", total, spent)
}
