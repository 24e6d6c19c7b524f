package budgets_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The defaults of budget.New.
const (
	defaultRatio        = 0.2
	defaultMinPerSecond = 0.02
	defaultPerRequest   = 10
	defaultBurst        = 3
)

// grove is a random forest: user requests that run down four levels of services on
// real gRPC. It counts what reaches the servers, and checks both bounds when
// everything has finished.
type grove struct {
	t     *testing.T
	shape groveShape

	mu       sync.Mutex
	calls    int               // for names
	attempts map[string]int    // by call
	rootOf   map[string]string // of a call
	targetOf map[string]int    // the level of the server that a call went to
	extra    map[string]int    // by root
	earned   map[string]int    // by root, by the calls of all its hops
	lost     map[string]int    // by root: attempts that a broken connection cut off
	underWay map[int]map[string]int
	levels   []level
}

// level is what one level's servers have seen.
type level struct{ extra, succeeded int }

// groveShape says what happens in a grove, in shares out of 100.
type groveShape struct {
	policy  interceptors.Policy
	fail    int // handlers fail, before or after their own calls
	cut     int // handlers break all connections to their server
	abandon int // handlers make a call besides that they do not wait for
	plain   int // the service in the middle has no Hopbound, if not 0
	early   int // server streams answer before their handler makes its calls
}

const (
	groveLevels    = 4
	grovePlain     = 2 // the level of the service that may have no Hopbound
	groveRequests  = 60
	groveUsers     = 4
	groveMaxFanout = 3
)

// call makes a call of any kind, under a name of its own, to the server of a level.
func (g *grove) call(ctx context.Context, root string, to int, cc *grpc.ClientConn) error {
	g.mu.Lock()
	g.calls++
	name := strconv.Itoa(g.calls)
	g.rootOf[name], g.targetOf[name] = root, to
	g.mu.Unlock()
	ctx = metadata.NewOutgoingContext(ctx, metadata.Pairs("x-call", name))
	all := harness.Kinds()
	if i := rand.IntN(len(all) + 1); i < len(all) {
		_, err := all[i].Exchange(ctx, cc, []string{"request"})
		return err
	}
	return harness.Idempotent(cc)(ctx)
}

// enter counts an attempt that has reached a server.
func (g *grove) enter(ctx context.Context, at int) (root string) {
	name := metadata.ValueFromIncomingContext(ctx, "x-call")[0]
	g.mu.Lock()
	defer g.mu.Unlock()
	root = g.rootOf[name]
	g.attempts[name]++
	if g.attempts[name] > 1 {
		g.extra[root]++
		g.levels[g.targetOf[name]].extra++
	}
	g.underWay[at][root]++
	return root
}

// leave counts the end of an attempt at its server. A stream that has answered and is
// cancelled counts as a success.
func (g *grove) leave(ctx context.Context, root string, at int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.underWay[at][root]--
	if err == nil || ctx.Err() != nil {
		g.levels[at].succeeded++
	}
}

// cut breaks all connections to a server. Every attempt under way there loses its
// reply.
func (g *grove) cut(n *harness.Node, at int) {
	g.mu.Lock()
	for root, attempts := range g.underWay[at] {
		g.lost[root] += attempts
	}
	g.mu.Unlock()
	n.Cut()
}

// serve runs the server of a level.
func (g *grove) serve(at int, down *grpc.ClientConn) *harness.Node {
	plain := at == grovePlain && g.shape.plain > 0
	var opts []grpc.ServerOption
	if !plain {
		opts = harness.NewServer(g.t).ServerOptions()
	}
	n := harness.NewNode(g.t, opts...)
	body := func(ctx context.Context) (err error) {
		root := g.enter(ctx, at)
		defer func() { g.leave(ctx, root, at, err) }()
		if plain { // what it calls knows nothing of the request
			g.mu.Lock()
			g.calls++
			root = fmt.Sprint("below plain ", g.calls)
			g.mu.Unlock()
		}
		return g.handle(ctx, root, at, n, down)
	}
	n.Server.RegisterService(harness.ServiceOf(body, func() bool { return rand.IntN(100) < g.shape.early }), nil)
	n.Start()
	return n
}

// handle is the body of all methods of a level's server.
func (g *grove) handle(ctx context.Context, root string, at int, n *harness.Node, down *grpc.ClientConn) error {
	time.Sleep(time.Duration(rand.IntN(8)) * ms)
	failure := harness.ErrUnavailable
	if rand.IntN(4) == 0 {
		failure = status.Error(codes.Internal, "what the handler makes of it")
	}
	fails, before := rand.IntN(100) < g.shape.fail, rand.IntN(2) == 0
	switch {
	case rand.IntN(1000) < g.shape.cut:
		g.cut(n, at)
		<-ctx.Done()
		return ctx.Err()
	case fails && (before || down == nil):
		return harness.ErrUnavailable
	case down == nil:
		return nil
	}
	err := g.callDown(ctx, root, at, down)
	if fails || err != nil {
		return failure
	}
	return nil
}

// callDown makes a handler's calls, one after another or at once, and checks the
// tokens of its request when they have ended.
func (g *grove) callDown(ctx context.Context, root string, at int, down *grpc.ClientConn) error {
	calls := 1 + rand.IntN(groveMaxFanout)
	abandons := rand.IntN(100) < g.shape.abandon
	if abandons {
		go func() { _ = g.call(ctx, root, at-1, down) }()
	}
	var wg sync.WaitGroup
	errs := make([]error, calls)
	for i := range errs {
		if rand.IntN(2) == 0 {
			wg.Go(func() { errs[i] = g.call(ctx, root, at-1, down) })
		} else {
			errs[i] = g.call(ctx, root, at-1, down)
		}
	}
	wg.Wait()
	if abandons {
		calls++
	}
	earned := int(defaultRatio * float64(calls))
	g.mu.Lock()
	g.earned[root] += earned
	g.mu.Unlock()
	if a, ok := budget.FromContext(ctx); ok && !abandons && ctx.Err() == nil {
		g.conserved(a, harness.HeaderField(ctx, "b"), earned)
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// conserved checks a request whose calls have all ended: no token is lent any more.
func (g *grove) conserved(a *budget.Allotment, received string, earned int) {
	tokens := defaultPerRequest
	if received != "" {
		tokens, _ = strconv.Atoi(received)
	}
	sum := a.Free() + a.Used()
	if all := tokens + earned; sum > all || sum < min(all, earned+1) { // a stream that has answered gives tokens back
		g.t.Errorf("%d tokens are free or used, of %d received and %d earned", sum, tokens, earned)
	}
}

// grow runs the requests of one grove, and checks the bounds.
func (g *grove) grow() {
	began := time.Now()
	client := func() []grpc.DialOption { return harness.NewClient(g.t, harness.Policy(g.shape.policy)).DialOptions() }
	var cc *grpc.ClientConn
	for at := range groveLevels {
		g.levels = append(g.levels, level{})
		g.underWay[at] = map[string]int{}
		n := g.serve(at, cc)
		if at == grovePlain-1 && g.shape.plain > 0 {
			cc = n.Dial(grpc.WithDisableRetry())
		} else {
			cc = n.Dial(client()...)
		}
	}
	var wg sync.WaitGroup
	for user := range groveUsers {
		wg.Go(func() {
			for i := range groveRequests / groveUsers {
				_ = g.call(g.t.Context(), fmt.Sprint(user, "/", i), groveLevels-1, cc)
			}
		})
	}
	wg.Wait()
	time.Sleep(time.Minute) // for calls that nobody waits for
	g.check(time.Since(began))
}

func (g *grove) check(took time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	total := 0
	for root, extra := range g.extra {
		total += extra
		if bound := defaultPerRequest + g.earned[root] + g.lost[root]; extra > bound {
			g.t.Errorf("request %s made %d extra attempts, with %d tokens earned and %d replies lost", root, extra, g.earned[root], g.lost[root])
		}
	}
	for at, l := range g.levels {
		bound := defaultRatio*float64(l.succeeded) + defaultMinPerSecond*took.Seconds() + defaultBurst
		if float64(l.extra) > bound {
			g.t.Errorf("level %d was sent %d extra attempts and succeeded %d times in %v", at, l.extra, l.succeeded, took)
		}
	}
	if g.shape.fail > 0 && total == 0 {
		g.t.Error("no extra attempts: the test shows nothing")
	}
	g.t.Logf("%d extra attempts of %d calls", total, g.calls)
}

// Down random trees of calls of every kind, no request makes more extra attempts
// than its tokens, no client sends a target more than the target's successes pay
// for, and no token stays lent when everything has finished.
func TestBothBoundsHoldOverRandomTrees(t *testing.T) {
	t.Parallel()
	retry := &interceptors.RetryPolicy{MaxAttempts: 4, Backoff: interceptors.Backoff{Base: ms, Max: ms}}
	for name, p := range map[string]interceptors.Policy{
		"retries":           {Retry: retry},
		"hedges":            {Hedge: &interceptors.HedgePolicy{MaxAttempts: 3, Delay: 3 * ms}},
		"hedges at once":    {Hedge: &interceptors.HedgePolicy{MaxAttempts: 2}},
		"shared timeouts":   {Retry: retry, AttemptTimeout: interceptors.AttemptTimeoutShared, Timeout: time.Minute},
		"timeout of a hour": {Retry: retry, Timeout: time.Hour},
	} {
		for trouble, shape := range map[string]groveShape{
			"nothing fails":                    {early: 30},
			"some fail":                        {fail: 10, early: 30, abandon: 10},
			"most fail":                        {fail: 70, early: 30},
			"all fail":                         {fail: 100},
			"connections break":                {fail: 5, cut: 10, early: 30},
			"a hop has no Hopbound, some fail": {fail: 10, cut: 5, plain: 1, abandon: 10, early: 30},
		} {
			shape.policy = p
			t.Run(name+", "+trouble, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					g := &grove{
						t: t, shape: shape, attempts: map[string]int{}, rootOf: map[string]string{}, targetOf: map[string]int{},
						extra: map[string]int{}, earned: map[string]int{}, lost: map[string]int{}, underWay: map[int]map[string]int{},
					}
					g.grow()
				})
			})
		}
	}
}
