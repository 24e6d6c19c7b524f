package interceptors_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
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
	for attributes, n := range sums(t, reader, "hopbound.idempotency.calls") {
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
	for attributes, count := range sums(t, reader, "hopbound.refusals") {
		if strings.Contains(attributes, "hopbound.reason="+reason+",") {
			n += count
		}
	}
	return n
}

func TestServerThatObservesRunsWritesEachTimeAndCountsWhatItWouldReplay(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	running, release := make(chan struct{}), make(chan struct{})
	b := &bank{pay: func(_ context.Context, _ int64, req *testv1.PayRequest) error {
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
	c := b.openWith(t, interceptors.WithIdempotency(store), observing(), meter).customer()
	pay := func(key, account string) (string, error) {
		var header metadata.MD
		got, err := c.pay(t.Context(), key, &testv1.PayRequest{Account: account}, grpc.Header(&header))
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
	if b.calls.Load() != 10 || store.Stats().Records != 0 {
		t.Errorf("%d runs and %d records, want 10 and none", b.calls.Load(), store.Stats().Records)
	}
}

func TestPanicOfAnObservedWriteReleasesItsKey(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	b := &bank{pay: func(_ context.Context, n int64, _ *testv1.PayRequest) error {
		if n == 1 {
			panic("a bug")
		}
		return nil
	}}
	server := newServer(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing(), meter)
	n := newNode(t, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(recovering)}, server.ServerOptions()...)...)
	testv1.RegisterTestServiceServer(n.server, b)
	n.start()
	for range 2 {
		_, _ = n.customer().pay(t.Context(), "k", rent())
	}
	if got := outcomes(t, reader); got["released"] != 1 || got["executed"] != 1 {
		t.Errorf("counted %v, want one released and one executed", got)
	}
}

// recovering makes an error of a panic.
func recovering(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panicked: %v", p)
		}
	}()
	return next(ctx, req)
}

// observedChain is a customer, a shop that calls a bank, and the bank, all of which
// observe. The bank requires keys of all its methods.
type observedChain struct {
	customer             testv1.TestServiceClient
	shopKeys, bankKeys   []string // that have arrived
	shopMeter, bankMeter *sdkmetric.ManualReader
	shop                 *node
}

func newObservedChain(t *testing.T) *observedChain {
	t.Helper()
	c := &observedChain{}
	var shopMeter, bankMeter interceptors.Option
	c.shopMeter, shopMeter = metered()
	c.bankMeter, bankMeter = metered()
	atBank := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		c.bankKeys = append(c.bankKeys, metadata.ValueFromIncomingContext(ctx, idempotency.Header)...)
		return nil
	}}
	bankNode := atBank.openWith(t, interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.RequireKey()), observing(), bankMeter)
	down := testv1.NewTestServiceClient(bankNode.dial(newClient(t, quick(), observing()).DialOptions()...))
	atShop := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		c.shopKeys = append(c.shopKeys, metadata.ValueFromIncomingContext(ctx, idempotency.Header)...)
		_, err := down.Write(ctx, &testv1.WriteRequest{})
		return err
	}}
	c.shop = atShop.openWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing(), shopMeter)
	c.customer = testv1.NewTestServiceClient(c.shop.dial(newClient(t, quick(), observing()).DialOptions()...))
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
	if _, err := c.customer.Pay(t.Context(), rent()); err != nil { // whose policy generates a key
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
	if _, err := c.shop.customer().Pay(t.Context(), rent()); err != nil { // by a client without Hopbound
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
		"observes":         {client: newClient(t, quick(), observing()).DialOptions(), want: codes.OK},
		"without Hopbound": {want: codes.InvalidArgument},
		"outside": {
			newClient(t, quick(), observing()).DialOptions(), []interceptors.ServerOption{interceptors.AtEdge()}, codes.InvalidArgument,
		},
	} {
		n := (&bank{}).openWith(t, append(tc.server, interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.SharedKeys()))...)
		if _, err := testv1.NewTestServiceClient(n.dial(tc.client...)).Pay(t.Context(), rent()); status.Code(err) != tc.want {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

// With its key, the write would have been safe to repeat.
func TestClientThatObservesDecidesAsIfItHadSentTheKey(t *testing.T) {
	t.Parallel()
	reader, meter := metered()
	b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error { return errUnavailable }}
	n := b.open(t, idempotency.NewMemory(), idempotency.Off())
	c := testv1.NewTestServiceClient(n.dial(newClient(t, quick(), interceptors.WithStrictSafety(), observing(), meter).DialOptions()...))
	_, _ = c.Pay(t.Context(), rent())
	_, _ = c.Write(t.Context(), &testv1.WriteRequest{})
	if got, want := decisions(t, reader), map[string]int64{"Pay retried": 1, "Write unsafe": 1}; !maps.Equal(got, want) {
		t.Errorf("decided %v, want %v", got, want)
	}
}

// decisions returns how often a client decided what of each method.
func decisions(t *testing.T, reader *sdkmetric.ManualReader) map[string]int64 {
	t.Helper()
	got := map[string]int64{}
	for attributes, count := range sums(t, reader, "hopbound.client.attempts") {
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
	reader, meter := metered()
	atBank := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error { return errUnavailable }}
	down := atBank.openWith(t, observing()).dial(newClient(t, quick(), interceptors.WithStrictSafety(), observing(), meter).DialOptions()...)
	shop := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		_, err := testv1.NewTestServiceClient(down).Write(ctx, &testv1.WriteRequest{})
		return err
	}}
	shopNode := shop.openWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), observing())
	_, _ = testv1.NewTestServiceClient(shopNode.dial(newClient(t, observing()).DialOptions()...)).Pay(t.Context(), rent())
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
		bankNode := (&bank{}).openWith(t, interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.RequireKey()), mode(0))
		down := testv1.NewTestServiceClient(bankNode.dial(newClient(t, quick(), mode(1)).DialOptions()...))
		shop := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			_, err := down.Write(ctx, &testv1.WriteRequest{})
			return err
		}}
		shopNode := shop.openWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), mode(2))
		customer := testv1.NewTestServiceClient(shopNode.dial(newClient(t, quick(), mode(3)).DialOptions()...))
		if _, err := customer.Pay(t.Context(), rent()); err != nil { // whose policy generates a key
			t.Errorf("modes %04b of the customer, the shop's server, the shop's client and the bank: %v", i, err)
		}
	}
}

// A write that would have a key of its own is not safe to repeat without it.
func TestExpectedKeyDoesNotMakeACallSafe(t *testing.T) {
	t.Parallel()
	atBank := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error { return errUnavailable }}
	down := testv1.NewTestServiceClient(atBank.open(t, idempotency.NewMemory()).dial(newClient(t).DialOptions()...))
	shop := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		_, err := down.Write(ctx, &testv1.WriteRequest{})
		return err
	}}
	shopNode := shop.open(t, idempotency.NewMemory())
	_, _ = testv1.NewTestServiceClient(shopNode.dial(newClient(t, observing()).DialOptions()...)).Pay(t.Context(), rent())
	if atBank.calls.Load() != 1 {
		t.Errorf("%d calls without a key, want 1", atBank.calls.Load())
	}
}

// A handler that passes its metadata on sends its own key with each of its calls, where a
// client that enforces sends a child key.
func TestForwardedKeyIsNotCountedAsReused(t *testing.T) {
	t.Parallel()
	for _, mode := range []interceptors.Mode{interceptors.Enforce, interceptors.Observe} {
		reader, meter := metered()
		bankNode := (&bank{}).openWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), interceptors.WithMode(mode), meter)
		down := testv1.NewTestServiceClient(bankNode.dial(newClient(t, quick(), interceptors.WithMode(mode)).DialOptions()...))
		shop := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			md, _ := metadata.FromIncomingContext(ctx)
			ctx = metadata.NewOutgoingContext(ctx, md)
			for _, account := range []string{"one", "two"} {
				if _, err := down.Pay(ctx, &testv1.PayRequest{Account: account}); err != nil {
					return err
				}
			}
			return nil
		}}
		_, err := shop.openWith(t, interceptors.WithIdempotency(idempotency.NewMemory()), interceptors.WithMode(mode)).customer().pay(t.Context(), "k", rent())
		if n := refusals(t, reader, interceptors.ReasonKeyReused); err != nil || n != 0 {
			t.Errorf("%v: %v, KEY_REUSED counted %d times", mode, err, n)
		}
	}
}
