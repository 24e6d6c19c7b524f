package interceptors_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// till notes the key in the metadata and that in the request of each call, and
// fails the first calls.
type till struct {
	bank
	mu    sync.Mutex
	notes []string
}

func newTill(failing int64) *till {
	l := &till{}
	l.pay = func(ctx context.Context, n int64, req *testv1.PayRequest) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.notes = append(l.notes, strings.Join(metadata.ValueFromIncomingContext(ctx, idempotency.Header), ",")+" "+req.GetRequestId())
		if n <= failing {
			return errUnavailable
		}
		return nil
	}
	return l
}

func (l *till) serve(t testing.TB) *node {
	t.Helper()
	n := newNode(t)
	testv1.RegisterTestServiceServer(n.server, l)
	n.start()
	return n
}

func (l *till) keys() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.notes)
}

// With a method that requires a key, a call that has none gets one, which all its
// attempts carry.
func TestCallOfAMethodThatRequiresAKeyGetsOne(t *testing.T) {
	t.Parallel()
	l := newTill(2)
	n := l.serve(t)
	c := testv1.NewTestServiceClient(n.dial(newClient(t).DialOptions()...))
	req := rent()
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
	c := testv1.NewTestServiceClient(n.dial(newClient(t).DialOptions()...))
	inField := func(key string) *testv1.PayRequest {
		r := rent()
		r.RequestId = key
		return r
	}
	for i, tc := range []struct {
		ctx  context.Context
		req  *testv1.PayRequest
		opts []grpc.CallOption
		want string
	}{
		{idempotency.WithKey(t.Context(), "mine"), rent(), nil, "mine mine"},
		{idempotency.WithKey(t.Context(), "mine"), inField("field"), nil, "mine field"},
		{t.Context(), inField("field"), nil, "field field"},
		{t.Context(), inField("field"), []grpc.CallOption{interceptors.UseKey("option")}, "option field"},
		{metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "hand"), rent(), nil, "hand hand"},
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
	l := &bank{}
	n := l.open(t, idempotency.NewMemory())
	c := testv1.NewTestServiceClient(n.dial(newClient(t, interceptors.WithPolicy(interceptors.MethodPolicies{
		"": {KeyField: "nonesuch"},
	})).DialOptions()...))
	_, err := c.Write(t.Context(), &testv1.WriteRequest{})
	wantError(t, err, codes.InvalidArgument, interceptors.ReasonPolicyInvalid)
	if n := l.calls.Load(); n != 0 {
		t.Errorf("%d calls", n)
	}
}

// downstream is a handler's client of the next hop, with Hopbound.
func (n *node) downstream() testv1.TestServiceClient {
	n.t.Helper()
	return testv1.NewTestServiceClient(n.dial(newClient(n.t).DialOptions()...))
}

// Down three hops, each with a store of its own, a parent that is run again after
// a crash repeats the keys of its calls, so that each is made once.
func TestParentThatRunsAgainRepeatsTheKeysOfItsCalls(t *testing.T) {
	t.Parallel()
	leaf := newTill(0)
	leafNode := leaf.open(t, idempotency.NewMemory()).downstream()
	middle := &bank{pay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		for range 2 {
			if _, err := leafNode.Pay(ctx, rent()); err != nil {
				return err
			}
		}
		if _, err := leafNode.Write(ctx, &testv1.WriteRequest{}); err != nil {
			return err
		}
		if n == 1 { // after its effects, before its outcome
			panic("crash")
		}
		return nil
	}}
	middleNode := middle.openRecovering(t, idempotency.NewMemory()).downstream()
	root := &bank{pay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		var wg sync.WaitGroup
		errs := make([]error, 3)
		for i, step := range []string{"charge", "refund", "notify"} {
			wg.Go(func() { _, errs[i] = middleNode.Pay(idempotency.WithStep(ctx, step), rent()) })
		}
		wg.Wait()
		if n == 1 {
			panic("crash")
		}
		for _, err := range errs {
			if err != nil {
				return err
			}
		}
		return nil
	}}
	c := root.openRecovering(t, idempotency.NewMemory()).customer()
	for i := 0; ; i++ {
		got, err := c.pay(t.Context(), "k", rent())
		if err == nil {
			if want := "payment 2 of rent"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			break
		}
		if i == 5 {
			t.Fatal(err)
		}
	}
	// Three writes of the root, one of which crashed and was run again, with three
	// writes each.
	if n := middle.calls.Load(); n != 4 {
		t.Errorf("the middle ran %d times, want 3 and the one that crashed", n)
	}
	keys := leaf.keys()
	if len(keys) != 9 {
		t.Errorf("the leaf ran %d times, want 9", len(keys))
	}
	slices.Sort(keys)
	if len(slices.Compact(keys)) != 9 {
		t.Errorf("keys were repeated: %q", keys)
	}
}

// openRecovering serves a bank whose panics become failures, as a crash does to
// the caller.
func (b *bank) openRecovering(t testing.TB, store idempotency.Store) *node {
	t.Helper()
	s := newServer(t, interceptors.WithIdempotency(store))
	n := newNode(t, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
			defer func() {
				if recover() != nil {
					err = errUnavailable
				}
			}()
			return next(ctx, req)
		})}, s.ServerOptions()...)...)
	testv1.RegisterTestServiceServer(n.server, b)
	n.start()
	return n
}

// A method whose policy says that it is not idempotent gets no key of the handler's
// that calls it, and is not repeated.
func TestMethodThatIsNotIdempotentGetsNoChildKey(t *testing.T) {
	t.Parallel()
	l := newTill(9)
	n := l.serve(t)
	leaf := testv1.NewTestServiceClient(n.dial(newClient(t, interceptors.WithPolicy(interceptors.MethodPolicies{
		testv1.TestService_Write_FullMethodName: {Idempotency: interceptors.NotIdempotent},
	})).DialOptions()...))
	b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		_, err := leaf.Write(ctx, &testv1.WriteRequest{})
		return err
	}}
	_, _ = b.open(t, idempotency.NewMemory()).customer().pay(t.Context(), "k", rent())
	if got := l.keys(); len(got) != 1 || got[0] != " " {
		t.Errorf("the leaf was called with %q", got)
	}
}

// Calls that only read get no key from the handler that makes them, a key of
// their own stays theirs, and without a key above there is none below.
func TestChildKeysAreForWrites(t *testing.T) {
	t.Parallel()
	var notes []string
	leaf := serve(t, func(ctx context.Context) error {
		notes = append(notes, fmt.Sprint(metadata.ValueFromIncomingContext(ctx, idempotency.Header)))
		return nil
	}).downstream()
	b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		if key, ok := idempotency.FromContext(ctx); ok {
			notes = append(notes, "handler "+string(key))
		}
		_, _ = leaf.Read(ctx, &testv1.ReadRequest{})
		_, _ = leaf.Idempotent(ctx, &testv1.IdempotentRequest{})
		_, _ = leaf.Write(idempotency.WithKey(ctx, "own"), &testv1.WriteRequest{})
		return nil
	}}
	c := b.open(t, idempotency.NewMemory()).customer()
	if _, err := c.pay(t.Context(), "k", rent()); err != nil {
		t.Fatal(err)
	}
	id := idempotency.NewID("", testv1.TestService_Pay_FullMethodName, "k")
	child := id.Child("k", testv1.TestService_Idempotent_FullMethodName, "call 1", nil)
	want := []string{"handler k", "[]", fmt.Sprintf("[%s]", child), "[own]"}
	if !slices.Equal(notes, want) {
		t.Errorf("got %q, want %q", notes, want)
	}
	notes = nil
	if _, err := c.Write(t.Context(), &testv1.WriteRequest{}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"[]", "[]", "[own]"}; !slices.Equal(notes, want) {
		t.Errorf("without a key: got %q, want %q", notes, want)
	}
}

// The key of a step differs from that of any numbered call, whatever the step's name.
func TestKeysOfStepsDifferFromThoseOfNumberedCalls(t *testing.T) {
	t.Parallel()
	l := newTill(0)
	n := l.serve(t)
	leaf := n.downstream()
	b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		for _, ctx := range []context.Context{
			ctx, idempotency.WithStep(ctx, "call 1"), idempotency.WithStep(ctx, "1"), idempotency.WithStep(ctx, "a"), idempotency.WithStep(ctx, "a"),
		} {
			if _, err := leaf.Write(ctx, &testv1.WriteRequest{}); err != nil {
				return err
			}
		}
		return nil
	}}
	if _, err := b.open(t, idempotency.NewMemory()).customer().pay(t.Context(), "k", rent()); err != nil {
		t.Fatal(err)
	}
	got := l.keys()
	if len(got) != 5 || got[3] != got[4] {
		t.Fatalf("the leaf was called with %q, want the last two the same", got)
	}
	if slices.Sort(got); len(slices.Compact(slices.Clone(got))) != 4 {
		t.Errorf("the leaf was called with %q, want four keys", got)
	}
}

func TestCheckFindsWhatCannotBeKept(t *testing.T) {
	t.Parallel()
	const service = "/hopbound.test.v1.TestService/"
	foreign := &grpc.ServiceDesc{ServiceName: "no.Protobuf", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{MethodName: "Do"}}}
	for name, tc := range map[string]struct {
		opts    []idempotency.Option
		foreign bool
		want    []string
		early   bool // NewServer finds it
	}{
		"nothing wrong":                          {opts: []idempotency.Option{idempotency.RequireKey()}},
		"a stream that requires a key":           {opts: []idempotency.Option{idempotency.ForMethod(service+"Chat", idempotency.RequireKey())}, want: []string{"Chat", "stream"}, early: true},
		"a fingerprint of no field":              {opts: []idempotency.Option{idempotency.ForMethod(service+"Pay", idempotency.FingerprintFields("nonesuch"))}, want: []string{"Pay", "nonesuch"}, early: true},
		"a key in no field":                      {opts: []idempotency.Option{idempotency.ForMethod(service+"Pay", idempotency.KeyField("cents"))}, want: []string{"Pay", "cents"}, early: true},
		"a service that is not protobuf's":       {foreign: true, want: []string{"/no.Protobuf/Do", "descriptor"}},
		"one that is left out":                   {foreign: true, opts: []idempotency.Option{idempotency.ForMethod("/no.Protobuf/", idempotency.Off())}},
		"a method that does not exist":           {opts: []idempotency.Option{idempotency.ForMethod(service+"Pya", idempotency.RequireKey())}, want: []string{"Pya", "registered"}},
		"a name that is none":                    {opts: []idempotency.Option{idempotency.ForMethod("Pay")}, want: []string{`"Pay"`}, early: true},
		"a retention of nothing":                 {opts: []idempotency.Option{idempotency.Retention(0)}, want: []string{"Retention(0s)"}, early: true},
		"a code that is no failure":              {opts: []idempotency.Option{idempotency.Codes(codes.OK)}, want: []string{"Codes", "OK"}, early: true},
		"a lease that is too short":              {opts: []idempotency.Option{idempotency.LeaseTime(1)}, want: []string{"LeaseTime(1ns)"}, early: true},
		"no tenant function, no ring, no limits": {opts: []idempotency.Option{idempotency.Tenant(nil), idempotency.Seal(nil), idempotency.MaxOutcome(0), idempotency.StoreTimeout(0), idempotency.MaxWait(-1)}, want: []string{"Tenant", "Seal", "MaxOutcome", "StoreTimeout", "MaxWait"}, early: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := interceptors.NewServer(interceptors.WithIdempotency(idempotency.NewMemory(), tc.opts...))
			if (err != nil) != tc.early {
				t.Fatalf("NewServer: %v", err)
			}
			if err == nil {
				srv := grpc.NewServer()
				testv1.RegisterTestServiceServer(srv, &bank{})
				if tc.foreign {
					srv.RegisterService(foreign, struct{}{})
				}
				err = s.Check(srv)
			}
			if (err != nil) != (len(tc.want) > 0) {
				t.Fatalf("got %v", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in %v", want, err)
				}
			}
		})
	}
	if _, err := interceptors.NewServer(interceptors.WithIdempotency(nil)); err == nil {
		t.Error("no store was taken for one")
	}
	if err := newServer(t).Check(grpc.NewServer()); err != nil {
		t.Error(err)
	}
}
