package otherbackend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/balancer/otherbackend"
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	_ "google.golang.org/grpc/balancer/leastrequest"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

const ms = time.Millisecond

var errUnavailable = status.Error(codes.Unavailable, "down")

// backends are servers in memory, behind one target.
type backends struct {
	t         *testing.T
	handle    func(ctx context.Context, backend int) error
	listeners []*bufconn.Listener
	resolver  *manual.Resolver
	delay     atomic.Int64 // how long new connections take

	mu    sync.Mutex
	calls [][]string // the requests that each has got
}

func serve(t *testing.T, n int, handle func(ctx context.Context, backend int) error) *backends {
	t.Helper()
	b := &backends{t: t, handle: handle, calls: make([][]string, n), resolver: manual.NewBuilderWithScheme("backends")}
	for i := range n {
		l := bufconn.Listen(1 << 16)
		s := grpc.NewServer()
		testv1.RegisterTestServiceServer(s, &backend{all: b, number: i})
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		t.Cleanup(func() { s.Stop(); <-done })
		b.listeners = append(b.listeners, l)
	}
	b.resolver.InitialState(b.state())
	return b
}

// state is what the resolver says: all backends.
func (b *backends) state() resolver.State {
	var s resolver.State
	for i := range b.listeners {
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: strconv.Itoa(i)}}})
	}
	return s
}

// dial connects to the target with a load-balancing configuration, and waits until
// all backends are connected.
func (b *backends) dial(balancing string, opts ...grpc.DialOption) *grpc.ClientConn {
	b.t.Helper()
	cc, err := grpc.NewClient("backends:///all", append(opts,
		grpc.WithResolvers(b.resolver),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [`+balancing+`]}`),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			time.Sleep(time.Duration(b.delay.Load()))
			i, err := strconv.Atoi(addr)
			if err != nil {
				return nil, err
			}
			return b.listeners[i].DialContext(ctx)
		}))...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = cc.Close() })
	cc.Connect()
	synctest.Wait()
	return cc
}

type backend struct {
	testv1.UnimplementedTestServiceServer
	all    *backends
	number int
}

func (s *backend) got(ctx context.Context, text string) error {
	s.all.mu.Lock()
	s.all.calls[s.number] = append(s.all.calls[s.number], text)
	s.all.mu.Unlock()
	return s.all.handle(ctx, s.number)
}

func (s *backend) Idempotent(ctx context.Context, r *testv1.IdempotentRequest) (*testv1.IdempotentResponse, error) {
	return &testv1.IdempotentResponse{}, s.got(ctx, r.GetText())
}

func (s *backend) Watch(r *testv1.WatchRequest, stream grpc.ServerStreamingServer[testv1.WatchResponse]) error {
	if err := s.got(stream.Context(), r.GetText()); err != nil {
		return err
	}
	return stream.Send(&testv1.WatchResponse{})
}

// mostOfOne returns how often a backend has got any one request at the most.
func (b *backends) mostOfOne() (most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, calls := range b.calls {
		counts := map[string]int{}
		for _, text := range calls {
			counts[text]++
			most = max(most, counts[text])
		}
	}
	return most
}

func client(t *testing.T, p interceptors.Policy) []grpc.DialOption {
	t.Helper()
	c, err := interceptors.NewClient(interceptors.WithPolicy(interceptors.MethodPolicies{"": p}),
		interceptors.WithBudget(budget.New(budget.Ratio(2), budget.Burst(1000))))
	if err != nil {
		t.Fatal(err)
	}
	return c.DialOptions()
}

func retrying(attempts int) interceptors.Policy {
	return interceptors.Policy{Retry: &interceptors.RetryPolicy{MaxAttempts: attempts, Backoff: interceptors.Backoff{Base: ms, Max: ms}}}
}

func call(ctx context.Context, cc *grpc.ClientConn, text string) error {
	_, err := testv1.NewTestServiceClient(cc).Idempotent(ctx, &testv1.IdempotentRequest{Text: text})
	return err
}

func watch(ctx context.Context, cc *grpc.ClientConn, text string) error {
	s, err := testv1.NewTestServiceClient(cc).Watch(ctx, &testv1.WatchRequest{Text: text})
	if err != nil {
		return err
	}
	for err == nil {
		_, err = s.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

const overRoundRobin = `{"hopbound_other_backend": {"childPolicy": [{"round_robin": {}}]}}`

// firstFails fails every call at the first backend.
func firstFails(_ context.Context, backend int) error {
	if backend == 0 {
		return errUnavailable
	}
	return nil
}

func TestRetryGoesToAnotherBackend(t *testing.T) {
	t.Parallel()
	for name, balancing := range map[string]string{
		"round robin":            overRoundRobin,
		"round robin by default": `{"hopbound_other_backend": {}}`,
		"least request":          `{"hopbound_other_backend": {"childPolicy": [{"least_request_experimental": {"choiceCount": 2}}]}}`,
	} {
		for kind, do := range map[string]func(context.Context, *grpc.ClientConn, string) error{"unary": call, "stream": watch} {
			t.Run(name+", "+kind, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := serve(t, 3, firstFails)
					cc := b.dial(balancing, client(t, retrying(2))...)
					var wg sync.WaitGroup
					for w := range 4 {
						wg.Go(func() {
							for i := range 100 {
								if err := do(t.Context(), cc, fmt.Sprint(w, "/", i)); err != nil {
									t.Error(err)
								}
							}
						})
					}
					wg.Wait()
					if len(b.calls[0]) == 0 || b.mostOfOne() > 1 {
						t.Errorf("a backend got one call %d times, the bad one %d calls", b.mostOfOne(), len(b.calls[0]))
					}
				})
			})
		}
	}
}

// Without the policy, a third of the retries meet the bad backend again.
func TestRetryMeetsTheBadBackendAgainWithoutThePolicy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, 2, func(context.Context, int) error { return errUnavailable })
		cc := b.dial(`{"round_robin": {}}`, client(t, retrying(3))...)
		_ = call(t.Context(), cc, "a call")
		if b.mostOfOne() != 2 {
			t.Errorf("a backend got the call %d times, want 2 of 3 attempts at 2 backends", b.mostOfOne())
		}
	})
}

func TestHedgeGoesToAnotherBackend(t *testing.T) {
	t.Parallel()
	for kind, do := range map[string]func(context.Context, *grpc.ClientConn, string) error{"unary": call, "stream": watch} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := serve(t, 2, func(ctx context.Context, backend int) error {
					if backend == 0 {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				})
				cc := b.dial(overRoundRobin, client(t, interceptors.Policy{Hedge: &interceptors.HedgePolicy{Delay: 10 * ms}})...)
				for i := range 20 {
					started := time.Now()
					if err := do(t.Context(), cc, strconv.Itoa(i)); err != nil || time.Since(started) > 10*ms {
						t.Errorf("%v after %v, want success after 10 ms at most", err, time.Since(started))
					}
				}
			})
		})
	}
}

// Where there is no other backend, or the child always picks the same, retries go
// where they would go without the policy.
func TestNothingChangesWithoutAnotherBackend(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		backends  int
		balancing string
	}{
		"one backend": {1, overRoundRobin},
		"pick_first":  {3, `{"hopbound_other_backend": {"childPolicy": [{"pick_first": {}}]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := serve(t, tc.backends, firstFails)
				cc := b.dial(tc.balancing, client(t, retrying(3))...)
				if err := call(t.Context(), cc, "a call"); status.Code(err) != codes.Unavailable || len(b.calls[0]) != 3 {
					t.Errorf("%v, the backend got %d attempts, want 3", err, len(b.calls[0]))
				}
			})
		})
	}
}

// More attempts than backends are made all the same.
func TestAllBackendsAreTriedBeforeOneIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, 3, func(context.Context, int) error { return errUnavailable })
		cc := b.dial(overRoundRobin, client(t, retrying(5))...)
		_ = call(t.Context(), cc, "a call")
		counts := []int{len(b.calls[0]), len(b.calls[1]), len(b.calls[2])}
		if counts[0]+counts[1]+counts[2] != 5 || min(counts[0], counts[1], counts[2]) == 0 {
			t.Errorf("the backends got %v attempts, want each one at least, and 5 together", counts)
		}
	})
}

// First attempts, and calls without a client of package interceptors, are spread
// as by the child alone.
func TestFirstAttemptsAreSpreadAsByTheChild(t *testing.T) {
	t.Parallel()
	const calls = 3000
	firstBackend := func(t *testing.T, balancing string, opts []grpc.DialOption) (attempts int) {
		t.Helper()
		b := serve(t, 3, firstFails)
		cc := b.dial(balancing, opts...)
		rng := rand.New(rand.NewPCG(1, 2))
		var wg sync.WaitGroup
		for i := range calls {
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond)
			wg.Go(func() { _ = call(t.Context(), cc, strconv.Itoa(i)) })
		}
		wg.Wait()
		seen := map[string]bool{}
		for _, text := range b.calls[0] {
			seen[text] = true
		}
		return len(seen)
	}
	for name, opts := range map[string]func(t *testing.T) []grpc.DialOption{
		"with retries": func(t *testing.T) []grpc.DialOption {
			t.Helper()
			return client(t, interceptors.Policy{Retry: &interceptors.RetryPolicy{Backoff: interceptors.Backoff{Base: 20 * ms}}})
		},
		"without Hopbound": func(*testing.T) []grpc.DialOption { return []grpc.DialOption{grpc.WithDisableRetry()} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				got := firstBackend(t, overRoundRobin, opts(t))
				if third := calls / 3; got < third-third/20 || got > third+third/20 {
					t.Errorf("the first backend got %d of %d calls, want %d", got, calls, third)
				}
			})
		})
	}
}

// A backend that the child cannot use is not waited for.
func TestRetryDoesNotWaitForABackendThatIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := serve(t, 2, firstFails)
		_ = b.listeners[1].Close()
		cc := b.dial(overRoundRobin, client(t, retrying(3))...)
		if err := call(t.Context(), cc, "a call"); status.Code(err) != codes.Unavailable || len(b.calls[0]) != 3 {
			t.Errorf("%v, the backend that is up got %d attempts, want 3", err, len(b.calls[0]))
		}
	})
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	parser, ok := balancer.Get(otherbackend.Name).(balancer.ConfigParser)
	if !ok {
		t.Fatal("the policy is not registered, or has no configuration")
	}
	for text, want := range map[string]string{
		`{}`:                                     "",
		`{"childPolicy": [{"round_robin": {}}]}`: "",
		`{"childPolicy": [{"not registered": {}}, {"pick_first": {}}]}`:            "",
		`{"childPolicy": [{"` + pickfirst.Name + `": {"shuffleAddressList": 7}}]}`: "pick_first",
		`{"childPolicy": [{"not registered": {}}]}`:                                "names no registered policy",
		`{"childPolicy": []}`: "names no registered policy",
		`{"childPolicy": [{"round_robin": {}, "pick_first": {}}]}`: "names 2 policies; it must name one",
		`{"childPolicy": 7}`: "cannot unmarshal",
		`[]`:                 "cannot unmarshal",
	} {
		_, err := parser.ParseConfig(json.RawMessage(text))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), otherbackend.Name)):
			t.Errorf("%s: %v, want an error about %q that names the policy", text, err, want)
		}
	}
}
