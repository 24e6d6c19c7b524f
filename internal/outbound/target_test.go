package outbound

import (
	"strconv"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/internal/policy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A client that calls ever new targets forgets those that it called least recently, and treats the
// 5,000th like the first.
func TestClientKnowsABoundedNumberOfTargets(t *testing.T) {
	t.Parallel()
	client, err := New(Config{Budget: budget.New(), Policies: policy.ByName{}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		name := "passthrough:///" + strconv.Itoa(i)
		cc, err := grpc.NewClient(name, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		known := client.targetOf(cc)
		if known.name != name || client.targetOf(cc) != known {
			t.Fatalf("target %d is called %q, or not remembered", i, known.name)
		}
		_ = cc.Close()
	}
	if got := len(client.targets.all()); got != maxTargets {
		t.Errorf("the client remembers %d targets, want %d", got, maxTargets)
	}
}

// The throttle of gRFC A6: failures close it when half of the tokens are left, and successes open it.
func TestThrottleClosesAtHalfOfItsTokens(t *testing.T) {
	t.Parallel()
	th := newThrottle(&policy.Throttle{MaxTokens: 10_000, TokenRatio: 100})
	for i := range 5 {
		if th.closed() {
			t.Fatalf("closed after %d failures", i)
		}
		th.failed()
	}
	if !th.closed() {
		t.Fatal("open with half of its tokens")
	}
	th.succeeded()
	if th.closed() {
		t.Fatal("closed with more than half of its tokens")
	}
	for range 100 {
		th.failed()
	}
	for range 1000 {
		th.succeeded()
	}
	for range 4 {
		th.failed()
	}
	if th.closed() {
		t.Fatal("it holds less than its tokens after many successes")
	}
	none := newThrottle(nil)
	none.failed()
	if none.closed() {
		t.Error("one that is not configured closes")
	}
}

// A call with a child key is safe to repeat if the proto file of its method says how outcomes are
// stored, whatever the callee has reported.
func TestDeclaredKeysMakeACallSafeToRepeat(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		declared policy.Declaration
		want     bool
	}{
		"nothing":     {},
		"retention":   {policy.Declaration{Retention: time.Hour}, true},
		"fingerprint": {policy.Declaration{Fingerprint: []string{"account"}}, true},
	} {
		c := &Call{childKey: true, wouldKey: true, method: &method{declared: tc.declared}, target: &target{}}
		if got := c.safeByKey(); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}
