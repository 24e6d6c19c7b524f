package interop_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/internal/e2e/harness"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// proxyCase is a row of the table of proxies: a proxy, what it does, and a test that returns the effect.
type proxyCase struct {
	proxy, does string
	test        func(t *testing.T) (effect string)
}

// A proxy between two hops may make calls slower or fail, as without Hopbound. What it does to Hopbound's metadata has no
// other effect than the one that the table tells.
func TestProxies(t *testing.T) {
	t.Parallel()
	table := newTable(t, "proxies", 3, "proxy", "what it does", "effect")
	for _, c := range slices.Concat(nginxCases(), nginxDeadlineCases(), rewritingCases()) {
		t.Run(c.proxy+" "+c.does, func(t *testing.T) {
			t.Parallel()
			if effect := c.test(t); !t.Failed() {
				table.add(c.proxy, c.does, effect)
			}
		})
	}
}

// Changes of the recommended configuration of nginx, for nginxFor.
var (
	passOnSent = []string{"error timeout;", "error timeout invalid_header http_500 http_502 http_503 http_504 non_idempotent;"}
	neverOut   = []string{"10.0.0.1:50051", "10.0.0.1:50051 max_fails=0", "10.0.0.2:50051", "10.0.0.2:50051 max_fails=0"}
	// With mirror, nginx has read the whole body of a request before it chooses an upstream.
	mirror = []string{"grpc_pass", "mirror /mirror;\n\tgrpc_pass", "location / {", "location = /mirror { internal; return 204; }\nlocation / {"}
)

func nginxCases() []proxyCase {
	const breaks = "an upstream breaks the connection after it has used tokens"
	return []proxyCase{
		{"nginx", "passes calls on", testNginxPassesMetadata},
		{"nginx", "passes calls to a hop whose leaf is down", testNginxKeepsTheRequestBudget},
		{"nginx", "an upstream refuses the connection", testNginxPassesOnWhatWasNotSent},
		{"nginx", breaks, func(t *testing.T) string {
			t.Helper()
			return fmt.Sprintf("not passed on. The caller makes two attempts on credit: %d leaf calls", brokenUpstreams(t))
		}},
		{"nginx", breaks + "; `non_idempotent` is set", func(t *testing.T) string {
			t.Helper()
			return fmt.Sprintf("not passed on, because nginx has not kept the body: %d leaf calls", brokenUpstreams(t, passOnSent...))
		}},
		{"nginx", breaks + "; `mirror` is set", func(t *testing.T) string {
			t.Helper()
			return fmt.Sprintf("not passed on: %d leaf calls", brokenUpstreams(t, mirror...))
		}},
		{"nginx", breaks + "; `mirror` and `non_idempotent` are set", testNginxDoublesTokensIfToldTo},
		{"nginx", "an upstream answers UNAVAILABLE", testNginxPassesUnavailableBack},
		{"nginx", "an upstream answers with HTTP status 503", testNginxPassesHTTPStatusesBack},
		{"nginx", "no upstream accepts connections (502)", testNginxAnswersItself},
		{"nginx", "each upstream has failed once", testNginxTakesUpstreamsOut},
		{"nginx", "an upstream does not answer within `grpc_read_timeout` (504)", testNginxTimesOut},
		{"nginx", "makes gRPC statuses of its errors (`error_page`, HTTP status 200)", testNginxErrorPageWithStatus200},
		{"nginx", "makes gRPC statuses of its errors (`error_page`, HTTP status 204)", testNginxErrorPageWithStatus204},
		{"nginx", "closes the client's connection after `keepalive_requests`", testNginxClosesClientConnections},
		{"nginx", "the client cancels a call", testNginxPassesCancellationOn},
	}
}

// failingLeaf serves a leaf with Hopbound that fails every call, until the test ends.
func failingLeaf(t testing.TB) (leaf *harness.Counter, address string) {
	t.Helper()
	leaf = &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	address, _ = serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	return leaf, address
}

func testNginxKeepsTheRequestBudget(t *testing.T) string {
	t.Helper()
	leaf, last := failingLeaf(t)
	hop := startProxied(t, last, nil)
	o := newCaller(t, nginxFor(t, [2]string{hop.address, hop.address})).request(t.Context(), 1)
	// The hop uses the two tokens that it is lent, and says so with n=1. The caller retries, and lends its last token.
	if calls := leaf.Calls.Load(); status.Code(o.err) != codes.Unavailable || calls != 1+callerTokens || o.used != callerTokens || o.attempts != 2 {
		t.Errorf("%d leaf calls, outcome %+v; want 5, and all tokens charged after two attempts", calls, o)
	}
	direct := newCaller(t, hop.address).request(t.Context(), 1)
	if calls := leaf.Calls.Load(); calls != 2*(1+callerTokens) || direct.used != o.used || direct.attempts != o.attempts {
		t.Errorf("without nginx: %d leaf calls more, outcome %+v; want the same as with it", calls-1-callerTokens, direct)
	}
	return fmt.Sprintf("%d leaf calls for a request with %d tokens, as without nginx; all tokens are charged", 1+callerTokens, callerTokens)
}

func testNginxPassesOnWhatWasNotSent(t *testing.T) string {
	t.Helper()
	leaf := &harness.Counter{}
	last, _ := serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	hop := startProxied(t, last, nil)
	c := newCaller(t, nginxFor(t, [2]string{refusingAddress(t), hop.address}))
	for range 4 {
		if o := c.request(t.Context(), 1); o.err != nil || o.used != 0 || o.attempts != 1 {
			t.Errorf("the outcome is %+v, want one attempt that succeeds", o)
		}
	}
	if calls := hop.calls.Load(); calls != 4 {
		t.Errorf("%d calls of the hop, want 4", calls)
	}
	return "passed on to another. No token is used, and the caller does not see it"
}

// brokenBound is the most leaf calls of a request whose first two replies are lost: one, one for each token, and two attempts
// on credit.
const brokenBound = 1 + callerTokens + 2

// brokenUpstreams makes a request through nginx to two hops that break the connection after they have used their tokens. It
// returns the number of leaf calls, and checks the bound.
func brokenUpstreams(t *testing.T, changes ...string) (leafCalls int64) {
	t.Helper()
	leafCalls, o := callBrokenUpstreams(t, changes...)
	if leafCalls != brokenBound || o.attempts != 3 {
		t.Errorf("%d leaf calls, outcome %+v; want %d after three attempts", leafCalls, o, brokenBound)
	}
	return leafCalls
}

func callBrokenUpstreams(t *testing.T, changes ...string) (leafCalls int64, o outcome) {
	t.Helper()
	leaf, last := failingLeaf(t)
	var hops [2]*proxied
	for i := range hops {
		hops[i] = startProxied(t, last, func(ctx context.Context, _ int64, err error) error {
			hops[i].cut()
			<-ctx.Done()
			return err
		})
	}
	address := nginxFor(t, [2]string{hops[0].address, hops[1].address}, slices.Concat(neverOut, changes)...)
	o = newCaller(t, address).request(t.Context(), 1)
	if status.Code(o.err) != codes.Unavailable || o.used != callerTokens {
		t.Errorf("outcome %+v, want UNAVAILABLE with all tokens charged", o)
	}
	return leaf.Calls.Load(), o
}

// With this configuration alone, the bound does not hold: each of the caller's attempts, with its tokens, goes to both
// upstreams.
func testNginxDoublesTokensIfToldTo(t *testing.T) string {
	t.Helper()
	calls, o := callBrokenUpstreams(t, slices.Concat(mirror, passOnSent)...)
	if calls != 2*brokenBound || o.attempts != 3 {
		t.Errorf("%d leaf calls, outcome %+v; want %d", calls, o, 2*brokenBound)
	}
	return fmt.Sprintf("**passed on with the same tokens**: %d leaf calls. Do not set `non_idempotent`", calls)
}

func testNginxPassesUnavailableBack(t *testing.T) string {
	t.Helper()
	upstream := &harness.Counter{Fail: harness.AlwaysFail(harness.ErrUnavailable)}
	var addresses [2]string
	for i := range addresses {
		addresses[i], _ = serve(t, upstream.Handle)
	}
	err := harness.Idempotent(dial(t, nginxFor(t, addresses, slices.Concat(passOnSent, mirror)...)))(t.Context())
	if fmt.Sprint(err) != harness.ErrUnavailable.Error() || upstream.Calls.Load() != 1 {
		t.Errorf("%v after %d calls of the upstreams, want the failure of the first", err, upstream.Calls.Load())
	}
	return "not passed on, whatever `grpc_next_upstream` says, because the HTTP status is 200"
}

func testNginxPassesHTTPStatusesBack(t *testing.T) string {
	t.Helper()
	var calls atomic.Int64
	var addresses [2]string
	for i := range addresses {
		upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		upstream.Config.ErrorLog = log.New(io.Discard, "", 0)
		upstream.Config.Protocols = new(http.Protocols)
		upstream.Config.Protocols.SetUnencryptedHTTP2(true)
		upstream.Start()
		t.Cleanup(upstream.Close)
		addresses[i] = upstream.Listener.Addr().String()
	}
	for _, c := range []struct {
		changes []string
		want    int64
	}{{passOnSent, 1}, {slices.Concat(passOnSent, mirror), 2}} {
		calls.Store(0)
		err := harness.Idempotent(dial(t, nginxFor(t, addresses, c.changes...)))(t.Context())
		if status.Code(err) != codes.Unavailable || calls.Load() != c.want {
			t.Errorf("%v after %d calls of the upstreams, want UNAVAILABLE after %d", err, calls.Load(), c.want)
		}
	}
	return "passed on only if `mirror` and `non_idempotent` are set. The caller sees UNAVAILABLE, as with 502"
}

func testNginxTakesUpstreamsOut(t *testing.T) string {
	t.Helper()
	leaf := &harness.Counter{}
	last, _ := serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	var hops [2]*proxied
	for i := range hops {
		hops[i] = startProxied(t, last, func(ctx context.Context, _ int64, err error) error {
			hops[i].cut()
			<-ctx.Done()
			return err
		})
	}
	o := newCaller(t, nginxFor(t, [2]string{hops[0].address, hops[1].address})).request(t.Context(), handlerCalls)
	if calls := hops[0].calls.Load() + hops[1].calls.Load(); calls != 2 || status.Code(o.err) != codes.Unavailable {
		t.Errorf("%d calls of the hops, outcome %+v; want two calls", calls, o)
	}
	return "no call is passed on for 10 s (`fail_timeout`): UNAVAILABLE, as with 502. `max_fails=0` turns this off"
}

func testNginxAnswersItself(t *testing.T) string {
	t.Helper()
	refusing := refusingAddress(t)
	c := newCaller(t, nginxFor(t, [2]string{refusing, refusing}))
	o := c.request(t.Context(), 1)
	// Two attempts lose two tokens each. The second and the third are made on credit; the third has no tokens to lose.
	if status.Code(o.err) != codes.Unavailable || !strings.Contains(o.err.Error(), "502") || o.used != callerTokens || o.attempts != 3 {
		t.Errorf("the outcome is %+v, want UNAVAILABLE because of a 502, all tokens charged, and three attempts", o)
	}
	// It makes no difference that the target has sent a report before.
	leaf, last := failingLeaf(t)
	var hop *proxied
	hop = startProxied(t, last, func(ctx context.Context, n int64, err error) error {
		if n > 2 { // the first request makes two calls of the hop
			hop.cut()
			<-ctx.Done()
		}
		return err
	})
	c = newCaller(t, nginxFor(t, [2]string{hop.address, hop.address}, neverOut...))
	first, second := c.request(t.Context(), 1), c.request(t.Context(), 1)
	if calls := leaf.Calls.Load(); calls != 1+callerTokens+brokenBound || first.attempts != 2 || second.used != callerTokens || second.attempts != 3 {
		t.Errorf("%d leaf calls, outcomes %+v and %+v; want all tokens charged, and three attempts of the second", calls, first, second)
	}
	return "UNAVAILABLE without metadata: a lost reply. Its tokens are charged, and the call is retried on credit"
}

func testNginxTimesOut(t *testing.T) string {
	t.Helper()
	leaf := &harness.Counter{}
	last, _ := serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	hop := startProxied(t, last, func(ctx context.Context, n int64, err error) error {
		if n == 1 {
			<-ctx.Done() // until nginx gives up
		}
		return err
	})
	c := newCaller(t, nginxFor(t, [2]string{hop.address, hop.address}, "grpc_read_timeout 1h", "grpc_read_timeout 1s"))
	if o := c.request(t.Context(), 1); o.err != nil || o.used != 2 || o.attempts != 2 {
		t.Errorf("the outcome is %+v, want a success after two attempts, and the tokens of the first charged", o)
	}
	return "as with 502; the upstream's call is cancelled"
}

// errorPage answers with UNAVAILABLE in the place of nginx's own errors.
func errorPage(httpStatus string) []string {
	return []string{"grpc_pass", "error_page 502 504 = /unavailable;\n\tgrpc_pass", "location / {", `location = /unavailable {
	internal; default_type application/grpc; add_header grpc-status 14; add_header grpc-message unavailable;
	return ` + httpStatus + `;
}
location / {`}
}

// An upstream that has used its tokens, and then breaks the connection, has never sent a report. To the caller, nginx's answer
// is that of a target without Hopbound, which cannot have used tokens.
func testNginxErrorPageWithStatus200(t *testing.T) string {
	t.Helper()
	leaf, last := failingLeaf(t)
	var hop *proxied
	hop = startProxied(t, last, func(ctx context.Context, n int64, err error) error {
		if n != 6 {
			hop.cut()
			<-ctx.Done()
		}
		return err
	})
	address := nginxFor(t, [2]string{hop.address, hop.address}, slices.Concat(neverOut, errorPage(`200 ""`))...)
	c := newCaller(t, address)
	// None of the five attempts is charged what it was lent, but only the token that paid for it.
	o, calls := c.request(t.Context(), 1), leaf.Calls.Load()
	if want := int64(3 + 3 + 3 + 2 + 1); status.Code(o.err) != codes.Unavailable || calls != want || o.used != callerTokens {
		t.Errorf("%d leaf calls, outcome %+v; want %d", calls, o, want)
	}
	// The sixth call of the hop is answered with a report. From then on, an answer without one is a lost reply.
	_ = c.request(t.Context(), 1)
	leaf.Calls.Store(0)
	o = c.request(t.Context(), 1)
	if calls := leaf.Calls.Load(); calls != brokenBound || o.used != callerTokens {
		t.Errorf("after a report: %d leaf calls, outcome %+v; want %d", calls, o, brokenBound)
	}
	return fmt.Sprintf("until the target has sent a report, the tokens of a broken upstream are not charged: %d leaf calls instead of %d", calls, brokenBound)
}

func testNginxErrorPageWithStatus204(t *testing.T) string {
	t.Helper()
	refusing := refusingAddress(t)
	o := newCaller(t, nginxFor(t, [2]string{refusing, refusing}, errorPage("204")...)).request(t.Context(), 1)
	if status.Code(o.err) != codes.Unknown || o.used != 2 || o.attempts != 1 {
		t.Errorf("the outcome is %+v, want UNKNOWN after one attempt", o)
	}
	return "UNKNOWN at clients of grpc-go, because 204 has no content type; not retried"
}

func testNginxClosesClientConnections(t *testing.T) string {
	t.Helper()
	leaf := &harness.Counter{}
	last, _ := serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	hop := startProxied(t, last, nil)
	c := newCaller(t, nginxFor(t, [2]string{hop.address, hop.address}, "keepalive_requests 1000000", "keepalive_requests 100"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if err := harness.Idempotent(c.cc)(t.Context()); err != nil {
					t.Errorf("a call failed: %v", err)
				}
			}
		})
	}
	wg.Wait()
	return "no call fails: gRPC sends again what nginx has not processed"
}

func testNginxPassesCancellationOn(t *testing.T) string {
	t.Helper()
	started, ended := make(chan struct{}), make(chan struct{})
	address, _ := serve(t, func(ctx context.Context) error {
		close(started)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}, harness.NewServer(t).ServerOptions()...)
	caller := newCaller(t, nginxFor(t, [2]string{address, address}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	if o := caller.request(ctx, 1); status.Code(o.err) != codes.Canceled {
		t.Errorf("the outcome is %+v, want CANCELLED", o)
	}
	<-ended
	return "the upstream's call is cancelled; its connection is closed"
}
