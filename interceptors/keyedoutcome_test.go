package interceptors_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
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
	b := &bank{pay: func(_ context.Context, _ int64, req *testv1.PayRequest) error {
		if req.GetAccount() == "fails" {
			return status.Error(codes.NotFound, big)
		}
		req.Account = big
		return nil
	}}
	c := b.open(t, idempotency.NewMemory(), idempotency.MaxOutcome(4<<10)).customer()
	if got, err := c.pay(t.Context(), "k", rent()); err != nil || len(got) < len(big) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	_, err := c.pay(t.Context(), "k", rent())
	wantError(t, err, codes.AlreadyExists, interceptors.ReasonResponseOmitted)
	for i := range 2 {
		_, err := c.pay(t.Context(), "l", &testv1.PayRequest{Account: "fails"})
		if message := status.Convert(err).Message(); status.Code(err) != codes.NotFound || (i > 0) != (len(message) < 1000) || !strings.HasPrefix(big, message) {
			t.Errorf("call %d: got %v with %d bytes", i, status.Code(err), len(message))
		}
	}
	if n := b.calls.Load(); n != 2 {
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
	b := &bank{}
	store := idempotency.NewMemory()
	if _, err := b.open(t, store, ring("0123456789abcdef")).customer().pay(t.Context(), "k", rent()); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string][]idempotency.Option{"another key": {ring("fedcba9876543210")}, "no key": nil} {
		_, err := b.open(t, store, opts...).customer().pay(t.Context(), "k", rent())
		if wantError(t, err, codes.Internal, interceptors.ReasonRecordCorrupt); t.Failed() {
			t.Error(name)
		}
	}
	if got, err := b.open(t, store, ring("0123456789abcdef")).customer().pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
		t.Errorf("with its own key: got %q, %v", got, err)
	}
	if n := b.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

func TestTraceSaysWhatBecameOfTheKeyAndNotTheKey(t *testing.T) {
	t.Parallel()
	spans := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(spans))
	b, store := &bank{}, rig()
	c := b.openWith(t, interceptors.WithIdempotency(store), interceptors.WithTracerProvider(provider)).customer()
	const key = "a-secret-key"
	_, _ = c.pay(t.Context(), key, rent())
	_, _ = c.pay(t.Context(), key, rent())
	_, _ = c.pay(t.Context(), key, &testv1.PayRequest{Account: "other"})
	store.set(store.before, "begin", errStore)
	_, _ = c.pay(t.Context(), key, rent())
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
	if text := fmt.Sprint(all[3].Events()); !strings.Contains(text, errStore.Error()) {
		t.Errorf("the store's error is not in %s", text)
	}
}
