package keys_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An outcome that is too large is kept without what makes it large, and the call
// is not made again.
func TestLargeOutcomesAreKeptInPart(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("€", 2<<10)
	b := &harness.Bank{OnPay: func(_ context.Context, _ int64, req *testv1.PayRequest) error {
		if req.GetAccount() == "fails" {
			return status.Error(codes.NotFound, big)
		}
		req.Account = big
		return nil
	}}
	c := b.Open(t, idempotency.NewMemory(), idempotency.MaxOutcome(4<<10)).Customer()
	if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || len(got) < len(big) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	_, err := c.PayWithKey(t.Context(), "k", harness.Rent())
	harness.WantError(t, err, codes.AlreadyExists, interceptors.ReasonResponseOmitted)
	for i := range 2 {
		_, err := c.PayWithKey(t.Context(), "l", &testv1.PayRequest{Account: "fails"})
		if message := status.Convert(err).Message(); status.Code(err) != codes.NotFound || (i > 0) != (len(message) < 1000) || !strings.HasPrefix(big, message) {
			t.Errorf("call %d: got %v with %d bytes", i, status.Code(err), len(message))
		}
	}
	if n := b.Calls.Load(); n != 2 {
		t.Errorf("%d calls", n)
	}
}

// What cannot be read is never a reason to make the call again.
func TestCorruptOutcomeIsNeverASecondRun(t *testing.T) {
	t.Parallel()
	ring := func(key string) idempotency.Option {
		r, err := idempotency.NewKeyRing("k", map[string][]byte{"k": []byte(key)})
		if err != nil {
			t.Fatal(err)
		}
		return idempotency.Seal(r)
	}
	b := &harness.Bank{}
	store := idempotency.NewMemory()
	if _, err := b.Open(t, store, ring("0123456789abcdef")).Customer().PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]idempotency.Option{"another key": {ring("fedcba9876543210")}, "no key": nil} {
		_, err := b.Open(t, store, opts...).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		if harness.WantError(t, err, codes.Internal, interceptors.ReasonRecordCorrupt); t.Failed() {
			t.Error(name)
		}
	}
	if got, err := b.Open(t, store, ring("0123456789abcdef")).Customer().PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
		t.Errorf("with its own key: got %q, %v", got, err)
	}
	if n := b.Calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func TestTraceHasTheOutcomeOfTheKeyAndNotTheKey(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	b, store := &harness.Bank{}, harness.NewFaultyStore()
	c := b.OpenWith(t, interceptors.WithIdempotency(store), interceptors.WithTracerProvider(provider)).Customer()
	const key = "a-secret-key"
	_, _ = c.PayWithKey(t.Context(), key, harness.Rent())
	_, _ = c.PayWithKey(t.Context(), key, harness.Rent())
	_, _ = c.PayWithKey(t.Context(), key, &testv1.PayRequest{Account: "other"})
	store.Set(store.Before, "begin", harness.ErrStore)
	_, _ = c.PayWithKey(t.Context(), key, harness.Rent())
	want := []string{"executed", "replayed", "reused", "store_unavailable"}
	all := spans.Ended()
	if len(all) != len(want) {
		t.Fatalf("%d spans", len(all))
	}
	for i, span := range all {
		found := ""
		for _, a := range span.Attributes() {
			if strings.Contains(a.Value.String(), key) {
				t.Errorf("span %d has the key in %s", i, a.Key)
			}
			if a.Key == "hopbound.idempotency.outcome" {
				found = a.Value.AsString()
			}
			if a.Key == "hopbound.idempotency.key_hash" && a.Value.AsString() != idempotency.Key(key).Hash() {
				t.Errorf("span %d: hash %s", i, a.Value.AsString())
			}
		}
		if found != want[i] {
			t.Errorf("span %d says %q, want %q", i, found, want[i])
		}
	}
	if text := fmt.Sprint(all[3].Events()); !strings.Contains(text, harness.ErrStore.Error()) {
		t.Errorf("the store's error is not in %s", text)
	}
}
