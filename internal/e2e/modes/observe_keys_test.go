package modes_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func observing() interceptors.Option { return interceptors.WithMode(interceptors.Observe) }

// outcomes returns how often each outcome of calls with a key was counted by a server
// that observes.
func outcomes(t *testing.T, reader *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	for attributes, n := range harness.Sums(t, reader, "hopbound.idempotency.calls") {
		if !strings.Contains(attributes, "hopbound.mode=observe") {
			t.Errorf("counted %s", attributes)
		}
		_, rest, _ := strings.Cut(attributes, "hopbound.idempotency.outcome=")
		outcome, _, _ := strings.Cut(rest, ",")
		out[outcome] += n
	}
	return out
}

// refusals returns how often a reason was counted.
func refusals(t *testing.T, reader *sdkmetric.ManualReader, reason string) (n int64) {
	t.Helper()
	for attributes, count := range harness.Sums(t, reader, "hopbound.refusals") {
		if strings.Contains(attributes, "hopbound.reason="+reason+",") {
			n += count
		}
	}
	return n
}

func TestServerThatObservesRunsWritesEachTimeAndCountsWhatItWouldReplay(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	running, release := make(chan struct{}), make(chan struct{})
	b := &harness.Bank{OnPay: func(_ context.Context, _ int64, req *testv1.PayRequest) error {
		switch req.GetAccount() {
		case "slow":
			running <- struct{}{}
			<-release
		case "down":
			return status.Error(codes.Unavailable, "the bank is down")
		case "unknown":
			return status.Error(codes.NotFound, "no such account")
		}
		return nil
	}}
	store := idempotency.NewMemory()
	c := b.OpenWith(t, interceptors.WithIdempotency(store), observing(), meter).Customer()
	pay := func(key, account string) (string, error) {
		var header metadata.MD
		got, err := c.PayWithKey(t.Context(), key, &testv1.PayRequest{Account: account}, grpc.Header(&header))
		if len(header["idempotency-replayed"]) > 0 {
			t.Errorf("%s %s: replayed", key, account)
		}
		return got, err
	}
	for i := range 3 { // executed, and replayed twice
		if got, err := pay("a", "rent"); err != nil || got != fmt.Sprintf("payment %d of rent", i+1) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for range 2 { // released twice
		if _, err := pay("b", "down"); status.Code(err) != codes.Unavailable {
			t.Error(err)
		}
	}
	for range 2 { // executed and replayed, since the failure would have been stored
		if _, err := pay("c", "unknown"); status.Code(err) != codes.NotFound {
			t.Error(err)
		}
	}
	if _, err := pay("a", "food"); err != nil { // reused
		t.Error(err)
	}
	done := make(chan error)
	for range 2 { // executed and joined
		go func() {
			_, err := pay("d", "slow")
			done <- err
		}()
		<-running
	}
	release <- struct{}{}
	release <- struct{}{}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	want := map[string]int64{"executed": 3, "replayed": 3, "released": 2, "reused": 1, "joined": 1}
	if got := outcomes(t, reader); !maps.Equal(got, want) || refusals(t, reader, interceptors.ReasonKeyReused) != 1 {
		t.Errorf("counted %v, want %v, and one refusal", got, want)
	}
	if b.Calls.Load() != 10 || store.Stats().Records != 0 {
		t.Errorf("%d runs and %d records, want 10 and none", b.Calls.Load(), store.Stats().Records)
	}
}

func TestPanicOfAnObservedWriteReleasesItsKey(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	b := &harness.Bank{OnPay: func(_ context.Context, n int64, _ *testv1.PayRequest) error {
		if n == 1 {
			panic("a bug")
		}
		return nil
	}}
	server := harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing(), meter)
	n := harness.NewNode(t, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(harness.RecoverPanics)}, server.ServerOptions()...)...)
	testv1.RegisterTestServiceServer(n.Server, b)
	n.Start()
	for range 2 {
		_, _ = n.Customer().PayWithKey(t.Context(), "k", harness.Rent())
	}
	if got := outcomes(t, reader); got["released"] != 1 || got["executed"] != 1 {
		t.Errorf("counted %v, want one released and one executed", got)
	}
}

// observedChain is a customer, a shop that calls a bank, and the bank, all of which
// observe. The bank requires keys of all its methods.
type observedChain struct {
	customer             testv1.TestServiceClient
	shopKeys, bankKeys   []string // that have arrived
	shopMeter, bankMeter *sdkmetric.ManualReader
	shop                 *harness.Node
}

func newObservedChain(t *testing.T) *observedChain {
	t.Helper()
	c := &observedChain{}
	var shopMeter, bankMeter interceptors.Option
	c.shopMeter, shopMeter = harness.Metered()
	c.bankMeter, bankMeter = harness.Metered()
	atBank := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		c.bankKeys = append(c.bankKeys, metadata.ValueFromIncomingContext(ctx, idempotency.Header)...)
		return nil
	}}
	bankNode := atBank.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.RequireKey()), observing(), bankMeter)
	down := testv1.NewTestServiceClient(bankNode.Dial(harness.NewClient(t, harness.FastRetry(), observing()).DialOptions()...))
	atShop := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		c.shopKeys = append(c.shopKeys, metadata.ValueFromIncomingContext(ctx, idempotency.Header)...)
		_, err := down.Write(ctx, &testv1.WriteRequest{})
		return err
	}}
	c.shop = atShop.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing(), shopMeter)
	c.customer = testv1.NewTestServiceClient(c.shop.Dial(harness.NewClient(t, harness.FastRetry(), observing()).DialOptions()...))
	return c
}

// missing returns how many calls the two servers would have refused.
func (c *observedChain) missing(t *testing.T) (shop, bank int64) {
	t.Helper()
	return refusals(t, c.shopMeter, interceptors.ReasonKeyMissing), refusals(t, c.bankMeter, interceptors.ReasonKeyMissing)
}

func TestKeysThatEnforcingWouldMakeAreExpectedDownTheChainAndNotSent(t *testing.T) {
	t.Parallel()
	c := newObservedChain(t)
	if _, err := c.customer.Pay(t.Context(), harness.Rent()); err != nil { // whose policy generates a key
		t.Fatal(err)
	}
	if shop, bank := c.missing(t); shop != 0 || bank != 0 {
		t.Errorf("%d and %d calls without a key, want none", shop, bank)
	}
	if len(c.shopKeys) != 0 || len(c.bankKeys) != 0 {
		t.Errorf("keys %q and %q were sent", c.shopKeys, c.bankKeys)
	}
}

func TestKeysOfTheApplicationAreSentAndHaveExpectedChildren(t *testing.T) {
	t.Parallel()
	c := newObservedChain(t)
	if _, err := c.customer.Write(idempotency.WithKey(t.Context(), "k"), &testv1.WriteRequest{}); err != nil {
		t.Fatal(err)
	}
	if shop, bank := c.missing(t); shop != 0 || bank != 0 {
		t.Errorf("%d and %d calls without a key, want none", shop, bank)
	}
	if fmt.Sprint(c.shopKeys, c.bankKeys) != "[k] []" {
		t.Errorf("keys %q and %q were sent, want the first alone", c.shopKeys, c.bankKeys)
	}
}

func TestCallsThatEnforcingWouldRefuseForWantOfAKeyAreCounted(t *testing.T) {
	t.Parallel()
	c := newObservedChain(t)
	if _, err := c.customer.Write(t.Context(), &testv1.WriteRequest{}); err != nil { // nothing gives it a key
		t.Fatal(err)
	}
	if shop, bank := c.missing(t); shop != 0 || bank != 1 {
		t.Errorf("%d and %d calls without a key, want 0 and 1", shop, bank)
	}
	if _, err := c.shop.Customer().Pay(t.Context(), harness.Rent()); err != nil { // by a client without Hopbound
		t.Fatal(err)
	}
	if shop, bank := c.missing(t); shop != 1 || bank != 2 {
		t.Errorf("%d and %d calls without a key, want 1 and 2", shop, bank)
	}
}

// Servers can enforce before their clients do: they serve clients that would send a
// key as before. Others must send the key that is required, and so must those outside,
// of whom nothing is believed.
func TestServerThatEnforcesRequiresNoKeyOfClientsThatOnlyObserve(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		client []grpc.DialOption
		server []interceptors.ServerOption
		want   codes.Code
	}{
		"observes":         {client: harness.NewClient(t, harness.FastRetry(), observing()).DialOptions(), want: codes.OK},
		"without Hopbound": {want: codes.InvalidArgument},
		"outside": {
			harness.NewClient(t, harness.FastRetry(), observing()).DialOptions(), []interceptors.ServerOption{interceptors.AtEdge()}, codes.InvalidArgument,
		},
	} {
		n := (&harness.Bank{}).OpenWith(t, append(tc.server, interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.SharedKeys()))...)
		if _, err := testv1.NewTestServiceClient(n.Dial(tc.client...)).Pay(t.Context(), harness.Rent()); status.Code(err) != tc.want {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// With its key, the write would have been safe to repeat.
func TestClientThatObservesDecidesAsIfItHadSentTheKey(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { return harness.ErrUnavailable }}
	n := b.Open(t, idempotency.NewMemory(), idempotency.Off())
	c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithStrictSafety(), observing(), meter).DialOptions()...))
	_, _ = c.Pay(t.Context(), harness.Rent())
	_, _ = c.Write(t.Context(), &testv1.WriteRequest{})
	if got, want := decisions(t, reader), map[string]int64{"Pay retried": 1, "Write unsafe": 1}; !maps.Equal(got, want) {
		t.Errorf("decided %v, want %v", got, want)
	}
}

// decisions returns how often a client decided what of each method.
func decisions(t *testing.T, reader *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	got := map[string]int64{}
	for attributes, count := range harness.Sums(t, reader, "hopbound.client.decisions") {
		method, rest, _ := strings.Cut(attributes, ",")
		_, decision, _ := strings.Cut(rest, "hopbound.decision=")
		decision, _, _ = strings.Cut(decision, ",")
		got[strings.TrimPrefix(method, "grpc.method=hopbound.test.v1.TestService/")+" "+decision] += count
	}
	return got
}

// A child key that the write would have does not make it safe: its callee has not said that it
// stores outcomes.
func TestExpectedChildKeyDoesNotMakeACallSafe(t *testing.T) {
	t.Parallel()
	reader, meter := harness.Metered()
	atBank := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { return harness.ErrUnavailable }}
	down := atBank.OpenWith(t, observing()).Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithStrictSafety(), observing(), meter).DialOptions()...)
	shop := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		_, err := testv1.NewTestServiceClient(down).Write(ctx, &testv1.WriteRequest{})
		return err
	}}
	shopNode := shop.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing())
	_, _ = testv1.NewTestServiceClient(shopNode.Dial(harness.NewClient(t, observing()).DialOptions()...)).Pay(t.Context(), harness.Rent())
	if got, want := decisions(t, reader), map[string]int64{"Write unsafe": 1}; !maps.Equal(got, want) {
		t.Errorf("decided %v, want %v", got, want)
	}
}

// In whatever order the processes of a chain start to enforce, and go back, no call fails
// for want of a key that it would have if all enforced.
func TestChainMayEnforceInAnyOrder(t *testing.T) {
	t.Parallel()
	for i := range 16 {
		mode := func(bit int) interceptors.Option { return interceptors.WithMode(interceptors.Mode(i >> bit & 1)) }
		bankNode := (&harness.Bank{}).OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.RequireKey()), mode(0))
		down := testv1.NewTestServiceClient(bankNode.Dial(harness.NewClient(t, harness.FastRetry(), mode(1)).DialOptions()...))
		shop := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			_, err := down.Write(ctx, &testv1.WriteRequest{})
			return err
		}}
		shopNode := shop.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), mode(2))
		customer := testv1.NewTestServiceClient(shopNode.Dial(harness.NewClient(t, harness.FastRetry(), mode(3)).DialOptions()...))
		if _, err := customer.Pay(t.Context(), harness.Rent()); err != nil { // whose policy generates a key
			t.Errorf("modes %04b of the customer, the shop's server, the shop's client and the bank: %v", i, err)
		}
	}
}

// A write that would have a key of its own is not safe to repeat without it.
func TestExpectedKeyDoesNotMakeACallSafe(t *testing.T) {
	t.Parallel()
	atBank := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { return harness.ErrUnavailable }}
	down := testv1.NewTestServiceClient(atBank.Open(t, idempotency.NewMemory()).Dial(harness.NewClient(t).DialOptions()...))
	shop := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		_, err := down.Write(ctx, &testv1.WriteRequest{})
		return err
	}}
	shopNode := shop.Open(t, idempotency.NewMemory())
	_, _ = testv1.NewTestServiceClient(shopNode.Dial(harness.NewClient(t, observing()).DialOptions()...)).Pay(t.Context(), harness.Rent())
	if atBank.Calls.Load() != 1 {
		t.Errorf("%d calls without a key, want 1", atBank.Calls.Load())
	}
}

// A handler that passes its metadata on sends its own key with each of its calls, where a
// client that enforces sends a child key.
func TestForwardedKeyIsNotCountedAsReused(t *testing.T) {
	t.Parallel()
	for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		reader, meter := harness.Metered()
		bankNode := (&harness.Bank{}).OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), interceptors.WithMode(mode), meter)
		down := testv1.NewTestServiceClient(bankNode.Dial(harness.NewClient(t, harness.FastRetry(), interceptors.WithMode(mode)).DialOptions()...))
		shop := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			md, _ := metadata.FromIncomingContext(ctx)
			ctx = metadata.NewOutgoingContext(ctx, md)
			for _, account := range []string{"one", "two"} {
				if _, err := down.Pay(ctx, &testv1.PayRequest{Account: account}); err != nil {
					return err
				}
			}
			return nil
		}}
		_, err := shop.OpenWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), interceptors.WithMode(mode)).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		if n := refusals(t, reader, interceptors.ReasonKeyReused); err != nil || n != 0 {
			t.Errorf("%v: %v, KEY_REUSED counted %d times", mode, err, n)
		}
	}
}

func TestServerThatObservesRunsEachCall(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{}
	store := idempotency.NewMemory()
	c := b.OpenWith(t, interceptors.WithIdempotency(store), interceptors.WithMode(interceptors.Observe)).Customer()
	for range 2 {
		if _, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Pay(t.Context(), harness.Rent()); err != nil {
		t.Error(err)
	}
	if n := b.Calls.Load(); n != 3 || store.Stats().Records != 0 {
		t.Errorf("%d calls, %d records", n, store.Stats().Records)
	}
}
