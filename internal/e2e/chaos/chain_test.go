package chaos_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"github.com/hopbound/hopbound/interceptors/degrade"
	"github.com/hopbound/hopbound/interceptors/fallback"
	"github.com/hopbound/hopbound/interceptors/fault"
	"github.com/hopbound/hopbound/interceptors/health"
	"github.com/hopbound/hopbound/interceptors/ratelimit"
	"github.com/hopbound/hopbound/interceptors/stack"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/test/bufconn"
)

const ms = time.Millisecond

// The settings of the chain.
const (
	hops           = 5
	places         = 8 // of the last service
	job            = 2 * ms
	userDeadline   = time.Second
	attemptTimeout = 200 * ms
	openFor        = 2 * time.Second
	detect         = 12 * time.Second
)

// chain is five services in a row. The first one has a fallback for reads.
type chain struct {
	t    *testing.T
	hops [hops + 1]*hop // from 1
	user testv1.TestServiceClient

	job       atomic.Int64 // how long the last service takes
	leafCalls atomic.Int64 // that arrive there
	mu        sync.Mutex
	effects   map[string]int // of writes, by account
}

// hop is one service.
type hop struct {
	testv1.UnimplementedTestServiceServer
	chain   *chain
	number  int
	next    testv1.TestServiceClient // nil at the last
	store   *harness.FaultyStore
	network *harness.Network // to it
	calls   *fault.Faults    // of the client that calls it
	serving *fault.Faults    // of its handlers
	names   *manual.Resolver // of its address
	tls     *certificates    // nil if the connections to it are not encrypted
	maxAge  time.Duration    // of connections to it

	mu       sync.Mutex
	listener *bufconn.Listener // nil while it is not running
	server   *grpc.Server
	conns    []net.Conn
	done     chan struct{}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newChain(t *testing.T, prepare func(c *chain)) *chain {
	t.Helper()
	c := &chain{t: t, effects: map[string]int{}}
	c.job.Store(int64(job))
	for i := 1; i <= hops; i++ {
		h := &hop{chain: c, number: i, store: harness.NewFaultyStore(), network: harness.NewNetwork(0), maxAge: time.Hour}
		for _, f := range []**fault.Faults{&h.calls, &h.serving} {
			*f = must(fault.New(nil, fault.Seed(uint64(i))))(t)
			if err := (*f).Enable(); err != nil {
				t.Fatal(err)
			}
		}
		c.hops[i] = h
	}
	if prepare != nil {
		prepare(c)
	}
	for i := hops; i >= 1; i-- {
		c.hops[i].start()
		client := c.hops[i].connect()
		if i > 1 {
			c.hops[i-1].next = client
		} else {
			c.user = client
		}
	}
	return c
}

// start starts the service, as a new process.
func (h *hop) start() {
	t := h.chain.t
	limit := 256
	var opts []grpc.ServerOption
	if h.number == hops {
		limit = places
		opts = append(opts, grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			h.chain.leafCalls.Add(1)
			return handler(ctx, req)
		}))
	}
	server := must(stack.NewServer(
		stack.Serve(must(interceptors.NewServer(interceptors.WithIdempotency(h.store)))(t)),
		stack.RateLimit(must(ratelimit.New(ratelimit.Rate(10000, 10000)))(t)),
		stack.Degrade(must(degrade.New())(t)),
		stack.Bulkhead(must(bulkhead.New(limit))(t)),
		stack.Fault(h.serving),
	))(t)
	alive := must(health.NewServer(health.DetectWithin(detect), health.MaxConnectionAge(h.maxAge, 10*time.Second)))(t)
	opts = slices.Concat(opts, server.ServerOptions(), alive.ServerOptions(), []grpc.ServerOption{grpc.WaitForHandlers(true)})
	if h.tls != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(h.tls.server())))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listener, h.server, h.done = bufconn.Listen(1<<16), grpc.NewServer(opts...), make(chan struct{})
	testv1.RegisterTestServiceServer(h.server, h)
	go func(s *grpc.Server, l net.Listener, done chan struct{}) {
		defer close(done)
		_ = s.Serve(l)
	}(h.server, h.listener, h.done)
}

// kill ends the service without notice.
func (h *hop) kill() {
	h.mu.Lock()
	server, done, conns := h.server, h.done, h.conns
	h.listener, h.server, h.conns = nil, nil, nil
	h.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	if server != nil {
		server.Stop()
		<-done
	}
}

// cut breaks the connections to the service.
func (h *hop) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		_ = c.Close()
	}
	h.conns = nil
}

func (h *hop) dial(ctx context.Context, _ string) (net.Conn, error) {
	h.mu.Lock()
	listener := h.listener
	h.mu.Unlock()
	if listener == nil {
		return nil, errors.New("connection refused")
	}
	conn, err := listener.DialContext(ctx)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, conn)
	return h.network.Over(conn), nil
}

// connect returns the client that calls the service, with the whole stack.
func (h *hop) connect() testv1.TestServiceClient {
	t := h.chain.t
	var fallbacks []fallback.Option
	if h.number == 2 { // the client of the first service
		fallbacks = append(fallbacks, fallback.For(testv1.TestService_Idempotent_FullMethodName, fallback.Default(
			func(context.Context, *testv1.IdempotentRequest, error) (*testv1.IdempotentResponse, error) {
				return &testv1.IdempotentResponse{Text: "default"}, nil
			})))
	}
	client := must(stack.NewClient(
		stack.Fallback(must(fallback.New(fallbacks...))(t)),
		stack.Retry(must(interceptors.NewClient(interceptors.WithPolicy(interceptors.MethodPolicies{"": {
			Retry: &interceptors.RetryPolicy{MaxAttempts: 3, Codes: []codes.Code{codes.Unavailable, codes.DeadlineExceeded}},
		}})))(t)),
		stack.Breaker(must(breaker.New(breaker.OpenFor(openFor)))(t)),
		stack.Bulkhead(must(bulkhead.New(128))(t)),
		stack.AttemptTimeout(attemptTimeout),
		stack.RateLimit(must(ratelimit.New(ratelimit.MaxSlowdown(time.Second)))(t)),
		stack.Fault(h.calls),
	))(t)
	alive := must(health.NewClient(health.DetectWithin(detect), health.ConnectWithin(time.Second)))(t)
	h.names = manual.NewBuilderWithScheme("test")
	h.names.InitialState(addresses())
	security := insecure.NewCredentials()
	if h.tls != nil {
		security = credentials.NewTLS(h.tls.client())
	}
	cc, err := grpc.NewClient("test:///service", slices.Concat(client.DialOptions(), alive.DialOptions(), []grpc.DialOption{
		grpc.WithResolvers(h.names), grpc.WithContextDialer(h.dial), grpc.WithTransportCredentials(security),
	})...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cc.Close()
		h.kill()
	})
	return testv1.NewTestServiceClient(cc)
}

// Idempotent is a read.
func (h *hop) Idempotent(ctx context.Context, req *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	if h.number < hops {
		return h.next.Idempotent(ctx, req)
	}
	h.work()
	return &testv1.IdempotentResponse{Text: "real"}, nil
}

// Pay is a write.
func (h *hop) Pay(ctx context.Context, req *testv1.PayRequest) (*testv1.PayResponse, error) {
	if h.number < hops {
		return h.next.Pay(ctx, req)
	}
	h.work()
	h.chain.mu.Lock()
	defer h.chain.mu.Unlock()
	h.chain.effects[req.GetAccount()]++
	return &testv1.PayResponse{}, nil
}

// work is what the last service does, without a look at its context.
func (h *hop) work() {
	time.Sleep(time.Duration(h.chain.job.Load()))
}

// certificates are those of a server, which can expire and be renewed.
type certificates struct {
	mu      sync.Mutex
	current tls.Certificate
	issue   func(until time.Time) tls.Certificate
	roots   *tls.Config
}

func (c *certificates) renew(until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.current = c.issue(until)
}

func (c *certificates) server() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return &c.current, nil
	}}
}

func (c *certificates) client() *tls.Config { return c.roots.Clone() }

// addresses is what the name of a service is resolved to.
func addresses() resolver.State {
	return resolver.State{Addresses: []resolver.Address{{Addr: "address"}}}
}
