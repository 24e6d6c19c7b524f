package interop_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

func nginxDeadlineCases() []proxyCase {
	return []proxyCase{
		{"nginx", "delays a call, and reuses connections (`keepalive`)", testNginxDelayIsDeducted},
		{"nginx", "delays a call, and connects for each", testNginxDelayOnANewConnection},
		{"nginx", "sends calls of several clients over one connection", testNginxMixesClocks},
	}
}

// askFirst makes nginx ask another server whether it may pass a request on.
func askFirst(t testing.TB, gate http.HandlerFunc) []string {
	t.Helper()
	server := httptest.NewServer(gate)
	t.Cleanup(server.Close)
	return []string{"grpc_pass", "auth_request /gate;\n\tgrpc_pass", "location / {", fmt.Sprintf(`location = /gate {
	internal; proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_pass %s;
}
location / {`, server.URL)}
}

// delayed is a server behind an nginx that delays some calls: those that carry x-hold.
type delayed struct {
	caller *caller
	spans  func() []sdktrace.ReadOnlySpan

	mu    sync.Mutex
	left  []time.Duration // of the calls, as their handlers see it
	sent  []wire.Context  // as they arrived
	peers []string        // from which they came
}

// holdTime is how long nginx holds a call with x-hold.
const holdTime = 500 * time.Millisecond

func startDelayed(t *testing.T, changes ...string) *delayed {
	t.Helper()
	d := &delayed{}
	recorder, tracer := harness.Traced()
	d.spans = recorder.Ended
	address, _ := listen(t, func(s *grpc.Server) {
		testv1.RegisterTestServiceServer(s, harness.Service{Handle: d.handle})
	}, harness.NewServer(t, tracer).ServerOptions()...)
	gate := func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Hold") != "" {
			time.Sleep(holdTime)
		}
	}
	oneUpstream := []string{"    server 10.0.0.2:50051;\n", ""}
	d.caller = newCaller(t, nginxFor(t, [2]string{address}, slices.Concat(changes, oneUpstream, askFirst(t, gate))...))
	return d
}

func (d *delayed) handle(ctx context.Context) error {
	left, _ := deadline.Remaining(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	p, _ := peer.FromContext(ctx)
	sent, _ := wire.ParseContext(strings.Join(md[wire.ContextKey], ","))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.sent, d.peers = append(d.left, left), append(d.sent, sent), append(d.peers, p.Addr.String())
	return nil
}

// call makes a call with a deadline, and returns how long it took.
func (d *delayed) call(t *testing.T, do harness.Call, pairs ...string) (took time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), pairs...), time.Minute)
	defer cancel()
	start := time.Now()
	if err := do(ctx); err != nil {
		t.Error(err)
	}
	return time.Since(start)
}

// excess returns the excess delays of all calls, in milliseconds.
func (d *delayed) excess() (all []float64) {
	for _, span := range d.spans() {
		for _, kv := range span.Attributes() {
			if kv.Key == "hopbound.deadline.excess_ms" {
				all = append(all, kv.Value.AsFloat64())
			}
		}
	}
	return all
}

func testNginxDelayIsDeducted(t *testing.T) string {
	t.Helper()
	d := startDelayed(t)
	took := d.call(t, harness.Idempotent(d.caller.cc))
	d.call(t, harness.Idempotent(d.caller.cc), "x-hold", "1")
	if d.peers[0] != d.peers[1] {
		t.Errorf("the calls came over the connections %v, want one", d.peers)
	}
	// The first message took at most as long as its call, which is the most that the base delay can be. Both rounding and
	// the allowance are a millisecond, and the drift of a minute is 30 ms.
	told := time.Duration(d.sent[1].Deadline-d.sent[1].Sent) * time.Microsecond
	if most := told - (holdTime - took - 32*time.Millisecond); d.left[1] > most {
		t.Errorf("%v of %v are left after a delay of %v, want at most %v", d.left[1], told, holdTime, most)
	}
	return "the delay is deducted from the deadline"
}

func testNginxDelayOnANewConnection(t *testing.T) string {
	t.Helper()
	d := startDelayed(t, "    keepalive 16;\n", "")
	for range 3 {
		d.call(t, harness.Idempotent(d.caller.cc), "x-hold", "1")
	}
	if slices.Sort(d.peers); len(slices.Compact(d.peers)) != 3 || !slices.Equal(d.excess(), []float64{0, 0, 0}) {
		t.Errorf("the calls came over the connections %v with the excess delays %v, want three and none", d.peers, d.excess())
	}
	return "the delay is not deducted, as with plain gRPC. The first message on a connection has no excess"
}

// rawClock sends the timestamps of a clock that is off, without Hopbound.
func rawClock(id string, start time.Time, offset time.Duration, cc *grpc.ClientConn) harness.Call {
	return func(ctx context.Context, _ ...grpc.CallOption) error {
		sent := (offset + time.Since(start)).Microseconds()
		value := fmt.Sprintf("1;d=%d;s=%d;c=%s;b=0;a=1", sent+time.Minute.Microseconds(), sent, id)
		return harness.Idempotent(cc)(metadata.AppendToOutgoingContext(ctx, wire.ContextKey, value))
	}
}

func testNginxMixesClocks(t *testing.T) string {
	t.Helper()
	d := startDelayed(t, "keepalive 16", "keepalive 1")
	address := strings.TrimPrefix(d.caller.cc.Target(), "passthrough:///")
	start := time.Now()
	clients := []harness.Call{
		harness.Idempotent(d.caller.cc), harness.Idempotent(newCaller(t, address).cc),
		rawClock("00000000000000aa", start, time.Hour, dial(t, address)),
		rawClock("00000000000000bb", start, 100*24*time.Hour, dial(t, address)),
	}
	longest := time.Duration(0)
	for range 5 {
		for _, client := range clients {
			longest = max(longest, d.call(t, client))
		}
	}
	clocks := map[uint64]bool{}
	for _, sent := range d.sent {
		clocks[sent.ClockID] = true
	}
	if slices.Sort(d.peers); len(slices.Compact(d.peers)) != 1 || len(clocks) != len(clients) {
		t.Errorf("the calls came over the connections %v with the clocks %v, want one connection and four clocks", d.peers, clocks)
	}
	// No message took longer than its call. Timestamps are rounded down to a millisecond.
	for _, excess := range d.excess() {
		if most := float64(longest+time.Millisecond) / float64(time.Millisecond); excess > most {
			t.Errorf("an excess delay of %v ms, want at most %v", excess, most)
		}
	}
	return "each client's clock has a base delay of its own on the connection. No call is rejected"
}
