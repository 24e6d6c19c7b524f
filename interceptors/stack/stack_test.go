package stack_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"github.com/hopbound/hopbound/interceptors/degrade"
	"github.com/hopbound/hopbound/interceptors/fallback"
	"github.com/hopbound/hopbound/interceptors/fault"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"github.com/hopbound/hopbound/interceptors/ratelimit"
	"github.com/hopbound/hopbound/interceptors/stack"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handler is a stats handler that does nothing.
type handler struct{ stats.Handler }

// parts are one of each part.
type parts struct {
	fallback, retry, breaker, timeout stack.ClientPart
	serve, degrade                    stack.ServerPart
	bulkhead, rate, fault, trace      stack.Part
}

func newParts(t testing.TB) *parts {
	t.Helper()
	return &parts{
		fallback: stack.Fallback(must(fallback.New())(t)), retry: stack.Retry(must(interceptors.NewClient())(t)),
		breaker: stack.Breaker(must(breaker.New())(t)), timeout: stack.AttemptTimeout(time.Second),
		serve: stack.Serve(must(interceptors.NewServer())(t)), degrade: stack.Degrade(must(degrade.New())(t)),
		bulkhead: stack.Bulkhead(must(bulkhead.New(1))(t)), rate: stack.RateLimit(must(ratelimit.New())(t)),
		fault: stack.Fault(must(fault.New(nil))(t)), trace: stack.Trace(handler{}),
	}
}

func TestClientReportsWhatItIsComposedOf(t *testing.T) {
	t.Parallel()
	p := newParts(t)
	for want, given := range map[string][]stack.ClientPart{
		"unary calls: retry and budget\nstreams: retry and budget":                                      {p.retry},
		"unary calls: fallback → retry and budget → rate limit\nstreams: retry and budget → rate limit": {p.fallback, p.retry, p.rate},
		"unary calls: fallback → retry and budget → breaker → bulkhead → attempt timeout → rate limit → fault → trace\n" +
			"streams: retry and budget → breaker → rate limit → fault → trace": {p.fallback, p.retry, p.breaker, p.bulkhead, p.timeout, p.rate, p.fault, p.trace},
		"unary calls: retry and budget → bulkhead\nstreams: retry and budget → bulkhead": {p.retry, stack.Bulkhead(must(bulkhead.New(1, bulkhead.WithStreams()))(t))},
	} {
		if c, err := stack.NewClient(given...); err != nil || c.String() != want {
			t.Errorf("%v, want %v, %v", c, want, err)
		}
	}
	s, err := stack.NewServer(p.trace, p.serve, p.rate, p.degrade, p.bulkhead, p.fault)
	if want := "unary calls: trace → deadline, budget and key → rate limit → degrade → bulkhead → fault\nstreams: trace → deadline, budget and key → rate limit → degrade → fault"; err != nil || s.String() != want {
		t.Errorf("%v, %v", s, err)
	}
}

// Of all orders of two parts, only one is accepted.
func TestWrongOrdersAreRejected(t *testing.T) {
	t.Parallel()
	p := newParts(t)
	client := []stack.ClientPart{p.fallback, p.retry, p.breaker, p.bulkhead, p.timeout, p.rate, p.fault, p.trace}
	for i := range client {
		for j := range client {
			given := append(append([]stack.ClientPart{}, client...)[:0:0], client...)
			given[i], given[j] = given[j], given[i]
			_, err := stack.NewClient(given...)
			if (err == nil) != (i == j) || err != nil && !strings.Contains(err.Error(), "must come before") {
				t.Errorf("%d and %d swapped: %v", i, j, err)
			}
		}
	}
	server := []stack.ServerPart{p.trace, p.serve, p.rate, p.degrade, p.bulkhead, p.fault}
	for i := range server {
		for j := range server {
			given := append([]stack.ServerPart{}, server...)
			given[i], given[j] = given[j], given[i]
			if _, err := stack.NewServer(given...); (err == nil) != (i == j) {
				t.Errorf("%d and %d swapped: %v", i, j, err)
			}
		}
	}
}

func TestInvalidPartsAreAllReported(t *testing.T) {
	t.Parallel()
	p := newParts(t)
	_, client := stack.NewClient(p.breaker, p.breaker, nil, stack.AttemptTimeout(0), stack.Fallback(nil), stack.Retry(nil), stack.Breaker(nil), stack.Bulkhead(nil),
		stack.RateLimit(nil), stack.Fault(nil), stack.Trace(nil), p.fallback)
	_, server := stack.NewServer(nil, stack.Serve(nil), stack.Degrade(nil), stack.Bulkhead(nil), p.rate, p.rate)
	for err, want := range map[error]map[string]int{
		client: {"is nil": 9, "given twice": 1, "must come before": 1, "retry and budget is missing": 1},
		server: {"is nil": 4, "given twice": 1, "key is missing": 1},
	} {
		for text, n := range want {
			if got := strings.Count(err.Error(), text); got != n {
				t.Errorf("%d times %q in %v", got, text, err)
			}
		}
	}
}

// server is a leaf whose calls fail or take time.
type server struct {
	companiontest.Server
	code atomic.Uint32
	took atomic.Int64
}

func newServer() *server {
	s := &server{}
	s.Handle = func(ctx context.Context) error {
		select {
		case <-time.After(time.Duration(s.took.Load())):
		case <-ctx.Done():
		}
		return status.Error(codes.Code(s.code.Load()), "")
	}
	return s
}

func retries(t testing.TB) stack.ClientPart {
	t.Helper()
	return stack.Retry(must(interceptors.NewClient(interceptors.WithPolicy(interceptors.MethodPolicies{"": {
		Retry: &interceptors.RetryPolicy{MaxAttempts: 3, Codes: []codes.Code{codes.Unavailable, codes.DeadlineExceeded}},
	}})))(t))
}

// A fallback serves a call after its retries, which the breaker counts one by one. When the breaker is open, the fallback
// serves it at once.
func TestFallbackServesAfterRetriesAndWhileTheBreakerIsOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := must(breaker.New(breaker.ConsecutiveFailures(3)))(t)
		s := newServer()
		s.code.Store(uint32(codes.Unavailable))
		client := must(stack.NewClient(stack.Fallback(must(fallback.New(fallback.For(companiontest.Check, fallback.Default(always))))(t)), retries(t), stack.Breaker(b)))(t)
		c := companiontest.Connect(t, &s.Server, nil, client.DialOptions()...)
		for i, want := range []int64{3, 3, 3} {
			var header metadata.MD
			if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.Header(&header)); err != nil || len(header.Get(fallback.Header)) != 1 {
				t.Errorf("call %d: %v, %v", i, err, header)
			}
			if s.Calls.Load() != want {
				t.Errorf("call %d: %d attempts so far, want %d", i, s.Calls.Load(), want)
			}
		}
	})
}

// The time that an attempt waits for its place does not count against its timeout, and a timeout gives the place back.
func TestWaitInTheBulkheadIsNotTheAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.took.Store(int64(800 * time.Millisecond))
		client := must(stack.NewClient(retries(t), stack.Bulkhead(must(bulkhead.New(1))(t)), stack.AttemptTimeout(time.Second)))(t)
		c := companiontest.Connect(t, &s.Server, nil, client.DialOptions()...)
		results := make(chan error, 3)
		for range cap(results) {
			go func() {
				_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{})
				results <- err
			}()
		}
		for range cap(results) {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if s.Calls.Load() != 3 {
			t.Errorf("%d attempts", s.Calls.Load())
		}
		s.took.Store(int64(time.Hour))
		if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.DeadlineExceeded || s.Calls.Load() != 6 {
			t.Errorf("%v after %d attempts", err, s.Calls.Load())
		}
	})
}

// What is refused before a later part has not cost anything there: an open breaker takes no place and no token of the
// rate limit.
func TestRefusedAttemptsCostLaterPartsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		s.code.Store(uint32(codes.Internal))
		client := must(stack.NewClient(stack.Retry(must(interceptors.NewClient())(t)), stack.Breaker(must(breaker.New(breaker.ConsecutiveFailures(1)))(t)),
			stack.Bulkhead(must(bulkhead.New(1, bulkhead.Queue(0)))(t)), stack.RateLimit(must(ratelimit.New(ratelimit.Rate(0.01, 2), ratelimit.MaxWait(1)))(t))))(t)
		c := companiontest.Connect(t, &s.Server, nil, client.DialOptions()...)
		for i, want := range []string{"", interceptors.ReasonBreakerOpen, interceptors.ReasonBreakerOpen, interceptors.ReasonBreakerOpen} {
			_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{})
			if _, refused := companiontest.Rejected(err, codes.Unavailable, interceptors.ReasonBreakerOpen); refused != (want != "") {
				t.Errorf("call %d: %v", i, err)
			}
		}
		s.code.Store(uint32(codes.OK))
		time.Sleep(6 * time.Second)
		if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil { // with the second of two tokens
			t.Error(err)
		}
		_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{})
		if _, limited := companiontest.Rejected(err, codes.ResourceExhausted, interceptors.ReasonRateLimited); !limited {
			t.Error(err)
		}
	})
}

// Attempts that a later part refuses say nothing about the target, and do not open its breaker.
func TestRefusalsOfLaterPartsDoNotOpenTheBreaker(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]func() stack.ClientPart{
		"bulkhead": func() stack.ClientPart {
			return stack.Bulkhead(must(bulkhead.New(1, bulkhead.Queue(0), bulkhead.WithStreams()))(t))
		},
		"rate limit": func() stack.ClientPart {
			return stack.RateLimit(must(ratelimit.New(ratelimit.Rate(0.01, 1), ratelimit.MaxWait(1)))(t))
		},
	} {
		for _, stream := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				s, b := newServer(), must(breaker.New(breaker.ConsecutiveFailures(1)))(t)
				s.took.Store(int64(time.Minute))
				c := companiontest.Connect(t, &s.Server, nil, must(stack.NewClient(stack.Retry(must(interceptors.NewClient())(t)), stack.Breaker(b), part()))(t).DialOptions()...)
				first := make(chan error)
				go func() { first <- companiontest.Call(t.Context(), c, stream) }()
				time.Sleep(time.Second)
				for range 5 {
					if err := companiontest.Call(t.Context(), c, stream); status.Code(err) != codes.ResourceExhausted {
						t.Errorf("%s, stream %v: %v", name, stream, err)
					}
				}
				if err := <-first; err != nil {
					t.Error(err)
				}
				for _, method := range []string{companiontest.Check, companiontest.Watch} {
					if got := b.State(companiontest.Target, method); got != breaker.Closed {
						t.Errorf("%s, stream %v: the breaker is %s", name, stream, got)
					}
				}
			})
		}
	}
}

func TestStreamsPassTheWholeStack(t *testing.T) {
	t.Parallel()
	dial, serve := whole(t, true)
	s := newServer()
	c := companiontest.Connect(t, &s.Server, serve, dial...)
	for range 10 {
		if err := companiontest.Call(t.Context(), c, true); err != nil {
			t.Error(err)
		}
	}
}
