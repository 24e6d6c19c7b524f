package interop_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hopbound/hopbound/internal/e2e/harness"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rewriting is a case of a proxy that rewrites metadata.
type rewriting struct {
	does string

	// The proxy. The argument n of reply is the number of the reply.
	request func(http.Header)
	reply   func(n int64, trailer http.Header)
	move    []string

	// leafCalls is how many calls of a leaf that is down one request makes. Its handler makes five calls, and the hop calls
	// the leaf for each.
	leafCalls int64
	malformed string // the key of which values are counted as malformed
	effect    string
}

// handlerCalls is the number of calls that a request makes.
const handlerCalls = 5

// A request may make this many calls of a leaf that is down: one for each call, and one for each token.
const leafBound = handlerCalls + callerTokens

// If the proxy hides the caller's tokens from a hop, each attempt of the caller starts a request budget at the hop.
const leafCallsOfRoots = (handlerCalls + callerTokens) * (1 + hopTokens)

// If the proxy hides what was used, the caller lends the same two tokens with each call.
const leafCallsUncharged = handlerCalls * (1 + 2)

func rewritings() []rewriting {
	change := func(key string, change func(string) string) func(http.Header) {
		return func(h http.Header) {
			if h.Get(key) != "" {
				h.Set(key, change(h.Get(key)))
			}
		}
	}
	drop := func(key string) func(http.Header) { return func(h http.Header) { h.Del(key) } }
	double := func(key string) func(http.Header) {
		return func(h http.Header) {
			if h.Get(key) != "" {
				h.Add(key, h.Get(key))
			}
		}
	}
	comma := func(v string) string { return v + "," + v }
	always := func(rewrite func(http.Header)) func(int64, http.Header) {
		return func(_ int64, trailer http.Header) { rewrite(trailer) }
	}
	root := "the hop is a root with tokens of its own"
	return []rewriting{
		{does: "passes all metadata on", leafCalls: leafBound, effect: "none"},
		{does: "writes values in lower case", request: change(contextHeader, strings.ToLower), reply: always(change(reportHeader, strings.ToLower)), leafCalls: leafBound, effect: "none"},

		{does: "drops `hop-context`", request: drop(contextHeader), leafCalls: leafCallsOfRoots, effect: root},
		{does: "sends `hop-context` twice", request: double(contextHeader), leafCalls: leafCallsOfRoots, malformed: wire.ContextKey, effect: root},
		{does: "appends a second `hop-context` after a comma", request: change(contextHeader, comma), leafCalls: leafCallsOfRoots, malformed: wire.ContextKey, effect: root},
		{does: "writes `hop-context` in upper case", request: change(contextHeader, strings.ToUpper), leafCalls: leafCallsOfRoots, malformed: wire.ContextKey, effect: root},

		{does: "drops `hop-report`", reply: always(drop(reportHeader)), leafCalls: leafCallsUncharged, effect: "the target counts as one without Hopbound: tokens used below are not charged, and each call may use them again"},
		{does: "drops `hop-report` from every reply but the first", reply: func(n int64, trailer http.Header) {
			if n > 1 {
				trailer.Del(reportHeader)
			}
		}, leafCalls: leafBound, effect: "a reply without a report is a lost one: all lent tokens are charged"},
		{does: "sends `hop-report` twice", reply: always(double(reportHeader)), leafCalls: leafBound, malformed: wire.ReportKey, effect: "the largest is charged; `n=1` is ignored"},
		{does: "appends a second `hop-report` after a comma", reply: always(change(reportHeader, comma)), leafCalls: leafBound, malformed: wire.ReportKey, effect: "all lent tokens are charged"},
		{does: "writes `hop-report` in upper case", reply: always(change(reportHeader, strings.ToUpper)), leafCalls: leafBound, malformed: wire.ReportKey, effect: "all lent tokens are charged"},

		{does: "drops `grpc-retry-pushback-ms`", reply: always(drop(pushbackHeader)), leafCalls: leafBound, effect: "hops above retry marked failures, within their tokens"},
		{does: "adds `grpc-retry-pushback-ms: 1` to every reply", reply: always(func(h http.Header) { h.Add(pushbackHeader, "1") }), leafCalls: leafBound, effect: "two values mean: do not retry. With `n=1`, callers that have tokens retry"},
		{does: "replaces `grpc-retry-pushback-ms` by -1", reply: always(func(h http.Header) { h.Set(pushbackHeader, "-1") }), leafCalls: leafBound, effect: "no call is retried above, except with `n=1`"},
		{does: "moves the trailers of Hopbound to the header", move: []string{reportHeader, pushbackHeader}, leafCalls: leafBound + 2, effect: "a failure without trailers is a lost reply: all lent tokens are charged, and two attempts are made on credit"},
		{
			does: "drops all metadata but gRPC's own", request: func(h http.Header) {
				keepOnly(h, "Content-Type", "Te", "User-Agent", timeoutHeader)
			}, reply: always(func(h http.Header) {
				keepOnly(h, "Content-Type", "Grpc-Status", "Grpc-Message")
			}), leafCalls: leafCallsOfRoots, effect: "both sides act as if the other were without Hopbound",
		},
	}
}

// keepOnly drops all other keys.
func keepOnly(h http.Header, keys ...string) {
	for key := range h {
		kept := false
		for _, k := range keys {
			kept = kept || k == key
		}
		if !kept {
			h.Del(key)
		}
	}
}

func rewritingCases() []proxyCase {
	const proxy = "a rewriting proxy"
	cases := []proxyCase{
		{proxy, "cuts `hop-context` off at any length", testCutContexts},
		{proxy, "cuts `hop-report` off at any length", testCutReports},
		{proxy, "replaces or drops `grpc-timeout`", testReplacedTimeouts},
		{proxy, "drops `idempotency-key`, and loses a reply", testDroppedKeys},
	}
	for _, r := range rewritings() {
		cases = append(cases, proxyCase{proxy, r.does, (&r).test})
	}
	return cases
}

func (r *rewriting) proxy() *rewriter {
	var replies atomic.Int64
	p := &rewriter{request: r.request, move: r.move}
	if r.reply != nil {
		p.trailer = func(trailer http.Header) { r.reply(replies.Add(1), trailer) }
	}
	return p
}

func (r *rewriting) test(t *testing.T) string {
	t.Helper()
	r.checkThatCallsAreServed(t)
	leaf, last := failingLeaf(t)
	serverMetrics, serverMeter := harness.Metered()
	clientMetrics, clientMeter := harness.Metered()
	hop := startProxied(t, last, nil, serverMeter)
	o := newCaller(t, r.proxy().start(t, hop.address), clientMeter).request(t.Context(), handlerCalls)
	calls := leaf.Calls.Load()
	if status.Code(o.err) != codes.Unavailable || calls != r.leafCalls {
		t.Errorf("%d leaf calls, outcome %+v; want %d", calls, o, r.leafCalls)
	}
	counted := fmt.Sprint(harness.Sums(t, serverMetrics, "hopbound.malformed"), harness.Sums(t, clientMetrics, "hopbound.malformed"))
	if r.malformed == "" && counted != "map[] map[]" || r.malformed != "" && !strings.Contains(counted, "hopbound.header="+r.malformed) {
		t.Errorf("counted as malformed: %s, want those of %q", counted, r.malformed)
	}
	effect := r.effect
	if calls != leafBound {
		effect += fmt.Sprintf(". %d leaf calls instead of %d", calls, leafBound)
	}
	if r.malformed != "" {
		effect += ". Counted as malformed"
	}
	return effect
}

// checkThatCallsAreServed checks that a call through the proxy ends as one without Hopbound does, and that one failure of
// the leaf is still retried.
func (r *rewriting) checkThatCallsAreServed(t *testing.T) {
	t.Helper()
	var fail atomic.Pointer[func(int64) error]
	leaf := &harness.Counter{Fail: func(n int64) error { return (*fail.Load())(n) }}
	last, _ := serve(t, leaf.Handle, harness.NewServer(t).ServerOptions()...)
	address := r.proxy().start(t, startProxied(t, last, nil).address)
	c, plain := newCaller(t, address), harness.Idempotent(dial(t, address))
	for _, want := range []error{nil, status.Error(codes.NotFound, "there is none"), status.Error(codes.DeadlineExceeded, "too late")} {
		failing := harness.AlwaysFail(want)
		fail.Store(&failing)
		got, gotPlain := c.request(t.Context(), 1).err, plain(t.Context())
		if status.Code(got) != status.Code(want) || fmt.Sprint(got) != fmt.Sprint(gotPlain) {
			t.Errorf("with Hopbound: %v, without: %v; want %v", got, gotPlain, want)
		}
	}
	leaf.Calls.Store(0)
	once := harness.FailFirst(1)
	fail.Store(&once)
	if o := c.request(t.Context(), 1); o.err != nil || leaf.Calls.Load() != 2 {
		t.Errorf("if the leaf fails once: %v after %d leaf calls, want success after two", o.err, leaf.Calls.Load())
	}
}
