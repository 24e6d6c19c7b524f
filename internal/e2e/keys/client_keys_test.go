package keys_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// With a method that requires a key, a call that has none gets one, which all its
// attempts carry.
func TestCallOfAMethodThatRequiresAKeyGetsOne(t *testing.T) {
	t.Parallel()
	l := newTill(2)
	n := l.serve(t)
	c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t).DialOptions()...))
	req := harness.Rent()
	for range 2 {
		if _, err := c.Pay(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	got := l.keys()
	if len(got) != 4 || got[0] != got[1] || got[1] != got[2] || got[2] == got[3] {
		t.Fatalf("keys %q, want three attempts with one and a call with another", got)
	}
	for _, note := range got {
		key, field, _ := strings.Cut(note, " ")
		if len(key) != 36 || field != key {
			t.Errorf("metadata has %q, and the request %q", key, field)
		}
	}
	if req.GetRequestId() != "" {
		t.Error("the caller's request was changed")
	}
}

func TestKeyOfTheCallersOwnComesFirst(t *testing.T) {
	t.Parallel()
	l := newTill(0)
	n := l.serve(t)
	c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t).DialOptions()...))
	inField := func(key string) *testv1.PayRequest {
		r := harness.Rent()
		r.RequestId = key
		return r
	}
	for i, tc := range []struct {
		ctx  context.Context
		req  *testv1.PayRequest
		opts []grpc.CallOption
		want string
	}{
		{idempotency.WithKey(t.Context(), "mine"), harness.Rent(), nil, "mine mine"},
		{idempotency.WithKey(t.Context(), "mine"), inField("field"), nil, "mine field"},
		{t.Context(), inField("field"), nil, "field field"},
		{t.Context(), inField("field"), []grpc.CallOption{interceptors.UseKey("option")}, "option field"},
		{metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "hand"), harness.Rent(), nil, "hand hand"},
		{metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "hand"), inField("field"), nil, "hand field"},
	} {
		if _, err := c.Pay(tc.ctx, tc.req, tc.opts...); err != nil {
			t.Error(err)
		}
		if got := l.keys(); got[i] != tc.want {
			t.Errorf("%d: got %q, want %q", i, got[i], tc.want)
		}
	}
}

func TestKeyFieldThatTheRequestHasNotIsAnError(t *testing.T) {
	t.Parallel()
	l := &harness.Bank{}
	n := l.Open(t, idempotency.NewMemory())
	c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, interceptors.WithPolicy(interceptors.MethodPolicies{
		"": {KeyField: "nonesuch"},
	})).DialOptions()...))
	_, err := c.Write(t.Context(), &testv1.WriteRequest{})
	harness.WantError(t, err, codes.InvalidArgument, interceptors.ReasonPolicyInvalid)
	if n := l.Calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
}

func TestInvalidKeyIsRefusedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	leaf := &harness.Counter{}
	do := harness.Write(harness.Serve(t, leaf.Handle).Dial(harness.NewClient(t).DialOptions()...))
	err := do(idempotency.WithKey(t.Context(), idempotency.Key(strings.Repeat("k", 256))))
	if status.Code(err) != codes.InvalidArgument || harness.Reason(err) != interceptors.ReasonKeyInvalid || leaf.Calls.Load() != 0 {
		t.Errorf("%v (%s) after %d calls", err, harness.Reason(err), leaf.Calls.Load())
	}
}

func TestAttemptsAreNumberedAndKeepTheirKey(t *testing.T) {
	t.Parallel()
	var (
		mu       sync.Mutex
		previous [][]string
		keys     [][]string
	)
	n := harness.Serve(t, func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		previous = append(previous, metadata.ValueFromIncomingContext(ctx, "grpc-previous-rpc-attempts"))
		keys = append(keys, metadata.ValueFromIncomingContext(ctx, idempotency.Header))
		return harness.ErrUnavailable
	})
	_ = harness.Write(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))(idempotency.WithKey(t.Context(), "order-17"))
	if len(previous) != 3 || len(previous[0]) != 0 || previous[1][0] != "1" || previous[2][0] != "2" {
		t.Errorf("previous attempts %v", previous)
	}
	for _, k := range keys {
		if len(k) != 1 || k[0] != "order-17" {
			t.Errorf("keys %v, want the same one on each attempt", keys)
		}
	}
}

// till notes the key in the metadata and that in the request of each call, and
// fails the first calls.
type till struct {
	harness.Bank
	mu    sync.Mutex
	notes []string
}

func newTill(failing int64) *till {
	l := &till{}
	l.OnPay = func(ctx context.Context, n int64, req *testv1.PayRequest) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.notes = append(l.notes, strings.Join(metadata.ValueFromIncomingContext(ctx, idempotency.Header), ",")+" "+req.GetRequestId())
		if n <= failing {
			return harness.ErrUnavailable
		}
		return nil
	}
	return l
}

func (l *till) serve(t testing.TB) *harness.Node {
	t.Helper()
	n := harness.NewNode(t)
	testv1.RegisterTestServiceServer(n.Server, l)
	n.Start()
	return n
}

func (l *till) keys() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.notes)
}
