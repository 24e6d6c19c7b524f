package keys_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc/metadata"
)

// Down three hops, each with a store of its own, a parent that is run again after
// a crash repeats the keys of its calls, so that each is made once.
func TestParentThatRunsAgainRepeatsTheKeysOfItsCalls(t *testing.T) {
	t.Parallel()
	leaf := newTill(0)
	leafNode := leaf.Open(t, idempotency.NewMemory()).Downstream()
	middle := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		for range 2 {
			if _, err := leafNode.Pay(ctx, harness.Rent()); err != nil {
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
	middleNode := middle.OpenRecovering(t, idempotency.NewMemory()).Downstream()
	root := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
		var wg sync.WaitGroup
		errs := make([]error, 3)
		for i, step := range []string{"charge", "refund", "notify"} {
			wg.Go(func() { _, errs[i] = middleNode.Pay(idempotency.WithStep(ctx, step), harness.Rent()) })
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
	c := root.OpenRecovering(t, idempotency.NewMemory()).Customer()
	for i := 0; ; i++ {
		got, err := c.PayWithKey(t.Context(), "k", harness.Rent())
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
	if n := middle.Calls.Load(); n != 4 {
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

// A method whose policy says that it is not idempotent gets no key of the handler's
// that calls it, and is not repeated.
func TestMethodThatIsNotIdempotentGetsNoChildKey(t *testing.T) {
	t.Parallel()
	l := newTill(9)
	n := l.serve(t)
	leaf := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, interceptors.WithPolicy(interceptors.MethodPolicies{
		testv1.TestService_Write_FullMethodName: {Idempotency: interceptors.NotIdempotent},
	})).DialOptions()...))
	b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		_, err := leaf.Write(ctx, &testv1.WriteRequest{})
		return err
	}}
	_, _ = b.Open(t, idempotency.NewMemory()).Customer().PayWithKey(t.Context(), "k", harness.Rent())
	if got := l.keys(); len(got) != 1 || got[0] != " " {
		t.Errorf("the leaf was called with %q", got)
	}
}

// Calls that only read get no key from the handler that makes them, a key of
// their own stays theirs, and without a key above there is none below.
func TestChildKeysAreForWrites(t *testing.T) {
	t.Parallel()
	var notes []string
	leaf := harness.Serve(t, func(ctx context.Context) error {
		notes = append(notes, fmt.Sprint(metadata.ValueFromIncomingContext(ctx, idempotency.Header)))
		return nil
	}).Downstream()
	b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		if key, ok := idempotency.FromContext(ctx); ok {
			notes = append(notes, "handler "+string(key))
		}
		_, _ = leaf.Read(ctx, &testv1.ReadRequest{})
		_, _ = leaf.Idempotent(ctx, &testv1.IdempotentRequest{})
		_, _ = leaf.Write(idempotency.WithKey(ctx, "own"), &testv1.WriteRequest{})
		return nil
	}}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	if _, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
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
	leaf := n.Downstream()
	b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		for _, ctx := range []context.Context{
			ctx, idempotency.WithStep(ctx, "call 1"), idempotency.WithStep(ctx, "1"), idempotency.WithStep(ctx, "a"), idempotency.WithStep(ctx, "a"),
		} {
			if _, err := leaf.Write(ctx, &testv1.WriteRequest{}); err != nil {
				return err
			}
		}
		return nil
	}}
	if _, err := b.Open(t, idempotency.NewMemory()).Customer().PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
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

// A hop that keeps no outcomes makes the same child keys when its call is repeated.
func TestHopWithoutAStorePassesKeysOn(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]interceptors.ServerOption{
		"no store": nil,
		"off":      {interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.Off())},
	} {
		leaf := &harness.Bank{}
		down := leaf.Open(t, idempotency.NewMemory()).Downstream()
		middle := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
			if _, err := down.Pay(ctx, harness.Rent()); err != nil {
				return err
			}
			if n == 1 {
				return harness.ErrUnavailable
			}
			return nil
		}}
		c := middle.OpenWith(t, opts...).Downstream()
		if _, err := c.Pay(idempotency.WithKey(t.Context(), "k"), harness.Rent()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := leaf.Calls.Load(); n != 1 || middle.Calls.Load() != 2 {
			t.Errorf("%s: the leaf ran %d times, the middle %d", name, n, middle.Calls.Load())
		}
	}
}

// A handler that passes its incoming metadata on does not send its own key instead
// of its children's.
func TestForwardedKeyIsNoKeyOfTheCalls(t *testing.T) {
	t.Parallel()
	leaf := &harness.Bank{}
	down := leaf.Open(t, idempotency.NewMemory()).Downstream()
	b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		md, _ := metadata.FromIncomingContext(ctx)
		ctx = metadata.NewOutgoingContext(ctx, md.Copy())
		for _, step := range []string{"first", "second"} {
			if _, err := down.Pay(idempotency.WithStep(ctx, step), harness.Rent()); err != nil {
				return err
			}
		}
		return nil
	}}
	c := b.Open(t, idempotency.NewMemory()).Customer()
	for i, key := range []string{"k", `"quoted"`} { // as over HTTP
		if _, err := c.PayWithKey(t.Context(), key, harness.Rent()); err != nil {
			t.Error(err)
		}
		if n := leaf.Calls.Load(); n != int64(2*i+2) {
			t.Errorf("the two steps of each of %d requests made %d writes", i+1, n)
		}
	}
}

// With a secret, nobody outside of the service can compute its child keys, and each run of a
// write still makes the same.
func TestChildKeysMayHaveASecret(t *testing.T) {
	t.Parallel()
	keys := map[string][]idempotency.Key{}
	for _, secret := range []string{"", "0123456789abcdef", "fedcba9876543210"} {
		for name, store := range map[string]idempotency.Store{"leases": idempotency.NewMemory(), "transactions": harness.TakeoverStore{Memory: idempotency.NewMemory()}, "off": nil} {
			b := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
				key, _ := idempotency.ForCall(ctx, "/shop.Ledger/Write", true)
				keys[secret] = append(keys[secret], key)
				if n == 1 {
					return harness.ErrUnavailable
				}
				return nil
			}}
			var opts []idempotency.Option
			if secret != "" {
				opts = append(opts, idempotency.ChildSecret([]byte(secret)))
			}
			if name == "off" {
				store, opts = idempotency.NewMemory(), append(opts, idempotency.Off())
			}
			c := b.OpenWith(t, interceptors.WithIdempotency(store, opts...)).Customer()
			for range 2 {
				_, _ = c.PayWithKey(t.Context(), "k", harness.Rent())
			}
		}
	}
	seen := map[idempotency.Key]string{}
	for secret, all := range keys {
		for _, key := range all {
			if key != all[0] || len(all) != 6 {
				t.Errorf("secret %q: keys %q", secret, all)
			}
		}
		if other, ok := seen[all[0]]; ok {
			t.Errorf("secrets %q and %q make the same key", secret, other)
		}
		seen[all[0]] = secret
	}
	if _, err := idempotency.NewSettings(idempotency.ChildSecret([]byte("short"))); err == nil {
		t.Error("a short secret was taken")
	}
}
