package interop_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
)

// In the tests of proxies, the chain is caller → proxy → hop → leaf. Requests start with callerTokens at the caller, and with
// hopTokens at a hop that does not receive the caller's. No call earns tokens, and the target budgets do not run out.
const (
	callerTokens = 4
	hopTokens    = 2
	targetTokens = 10_000
	maxAttempts  = 10
)

// proxied is a hop behind a proxy. It calls the leaf once for each call that it receives.
type proxied struct {
	address string
	calls   atomic.Int64
	cut     func() // breaks all connections
}

// answering makes the answer to the nth call of a hop from the error of its call of the leaf.
type answering func(ctx context.Context, n int64, err error) error

// startProxied starts a hop that calls the leaf, until the test ends. If answer is nil, it answers with the error of the leaf.
func startProxied(t testing.TB, leaf string, answer answering, opts ...interceptors.ServerOption) *proxied {
	t.Helper()
	p := &proxied{}
	down := harness.Idempotent(dialHopbound(t, leaf, budget.PerRequest(hopTokens), &sentContexts{}))
	handle := func(ctx context.Context) error {
		n := p.calls.Add(1)
		err := down(ctx)
		if answer != nil {
			err = answer(ctx, n, err)
		}
		return err
	}
	p.address, p.cut = listen(t, func(s *grpc.Server) {
		testv1.RegisterTestServiceServer(s, harness.Service{Handle: handle})
	}, harness.NewServer(t, opts...).ServerOptions()...)
	return p
}

// listen serves on a loopback port until the test ends. The function cut breaks all connections.
func listen(t testing.TB, register func(*grpc.Server), opts ...grpc.ServerOption) (address string, cut func()) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := harness.NewNode(t, opts...)
	register(n.Server)
	kept := &keptConns{Listener: listener}
	n.StartOn(kept)
	return listener.Addr().String(), kept.cut
}

// dialHopbound connects to an address with Hopbound until the test ends.
func dialHopbound(t testing.TB, address string, tokens budget.Option, sent *sentContexts, opts ...interceptors.ClientOption) *grpc.ClientConn {
	t.Helper()
	b := harness.FixedBudget(tokens, budget.Burst(targetTokens))
	cc, err := grpc.NewClient("passthrough:///"+address, append(harness.NewClient(t, append(opts,
		harness.FastRetryUpTo(maxAttempts), interceptors.WithBudget(b))...).DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(sent))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

// caller makes requests through a proxy.
type caller struct {
	cc   *grpc.ClientConn
	sent sentContexts
}

func newCaller(t testing.TB, address string, opts ...interceptors.ClientOption) *caller {
	t.Helper()
	c := &caller{}
	c.cc = dialHopbound(t, address, budget.PerRequest(callerTokens), &c.sent, opts...)
	return c
}

// outcome is the outcome of a request.
type outcome struct {
	err      error // of its last call
	used     int   // tokens of the caller
	attempts int   // of the caller
}

// request makes a request of so many calls, one after the other.
func (c *caller) request(ctx context.Context, calls int, opts ...grpc.CallOption) (o outcome) {
	ctx, end := budget.NewRoot(ctx, harness.FixedBudget(budget.PerRequest(callerTokens)))
	defer end(true)
	root, _ := budget.FromContext(ctx)
	before := len(c.sent.all())
	for range calls {
		o.err = harness.Idempotent(c.cc)(ctx, opts...)
	}
	o.used, o.attempts = root.Used(), len(c.sent.all())-before
	return o
}

// sentContexts records the hop-context of each attempt that a client sends.
type sentContexts struct {
	mu     sync.Mutex
	values []string
}

// all returns the values in the order of the attempts.
func (s *sentContexts) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clip(s.values)
}

// HandleRPC implements [stats.Handler].
func (s *sentContexts) HandleRPC(_ context.Context, event stats.RPCStats) {
	if header, ok := event.(*stats.OutHeader); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.values = append(s.values, strings.Join(header.Header[wire.ContextKey], ","))
	}
}

// TagRPC implements [stats.Handler].
func (*sentContexts) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn implements [stats.Handler].
func (*sentContexts) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements [stats.Handler].
func (*sentContexts) HandleConn(context.Context, stats.ConnStats) {}
