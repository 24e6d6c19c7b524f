package keys_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// contended is a store whose first transactions are rolled back because of others.
type contended struct {
	harness.TakeoverStore
	conflicts *int
}

func (s contended) Transact(ctx context.Context, _ idempotency.Claim, run func(context.Context, idempotency.BeginResult) idempotency.Verdict) (idempotency.BeginResult, error) {
	begun := idempotency.BeginResult{State: idempotency.Run}
	if v := run(ctx, begun); v.Err != nil && !v.Keep { // as a store sees it that its database was in conflict
		return begun, fmt.Errorf("a test: %w: %w", idempotency.ErrConflict, v.Err)
	}
	if *s.conflicts--; *s.conflicts >= 0 {
		return begun, fmt.Errorf("a test: %w", idempotency.ErrConflict)
	}
	return begun, nil
}

// A handler runs again after a conflict as often as it is allowed to, and its caller is told
// that it may come back.
func TestHandlerRunsAgainAfterAConflictIfItMay(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts      []idempotency.Option
		conflicts int
		runs      int64
		succeeds  bool
	}{
		"it may not":                   {nil, 1, 1, false},
		"it may, and succeeds at last": {[]idempotency.Option{idempotency.Reruns(2)}, 2, 3, true},
		"it may, and not often enough": {[]idempotency.Option{idempotency.Reruns(2)}, 3, 3, false},
		"it may, very often":           {[]idempotency.Option{idempotency.Reruns(100)}, 90, 91, true},
		"another method may":           {[]idempotency.Option{idempotency.ForMethod("/hopbound.test.v1.TestService/Write", idempotency.Reruns(2))}, 1, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &harness.Bank{}
				c := b.Open(t, contended{harness.TakeoverStore{Memory: idempotency.NewMemory()}, &tc.conflicts}, tc.opts...).Customer()
				got, err := c.PayWithKey(t.Context(), "k", harness.Rent())
				if tc.succeeds {
					if err != nil || got != fmt.Sprintf("payment %d of rent", tc.runs) {
						t.Errorf("got %q, %v", got, err)
					}
				} else {
					harness.WantError(t, err, codes.Aborted, interceptors.ReasonConflict)
					if harness.RetryDelay(err) <= 0 {
						t.Error("the caller is not told when to come back")
					}
				}
				if n := b.Calls.Load(); n != tc.runs {
					t.Errorf("%d runs, want %d", n, tc.runs)
				}
			})
		})
	}
}

// A call that ends while it waits to run again runs no more.
func TestHandlerDoesNotRunAgainForACallThatIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		conflicts := 100
		c := b.Open(t, contended{harness.TakeoverStore{Memory: idempotency.NewMemory()}, &conflicts}, idempotency.Reruns(10)).Customer()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _ = c.PayWithKey(ctx, "k", harness.Rent())
		time.Sleep(time.Minute)
		if n := b.Calls.Load(); n != 1 {
			t.Errorf("%d runs", n)
		}
	})
}

// A response that cannot be encoded is a failure of the handler, which has had its effect.
func TestResponseThatCannotBeEncodedIsAFailure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var takenOver []bool
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			takenOver = append(takenOver, idempotency.TakenOver(ctx))
			return nil
		}}
		c := b.Open(t, idempotency.NewMemory()).Customer()
		invalid := harness.Rent()
		for range 2 {
			_, err := c.PayWithKey(metadata.AppendToOutgoingContext(t.Context(), "x-spoil", "1"), "k", invalid)
			harness.WantError(t, err, codes.Internal, interceptors.ReasonResponseInvalid)
		}
		if fmt.Sprint(takenOver) != "[false true]" {
			t.Errorf("taken over %v", takenOver)
		}
		if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 3 of rent" {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// An outcome that was stored under an old name of the response is replayed by an alias.
func TestOutcomeIsReplayedByAnOldNameOfItsResponse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := idempotency.NewMemory()
		const method = "/hopbound.test.v1.TestService/Pay"
		claim := idempotency.Claim{ID: idempotency.NewID("", method, "k"), Owner: "a", Lease: time.Minute}
		begun, err := store.Begin(t.Context(), claim)
		if err != nil {
			t.Fatal(err)
		}
		record, err := idempotency.Codec{}.Encode(claim.ID, &idempotency.Outcome{Response: []byte("\x0a\x05hello"), ResponseType: "bank.v1.Paid"})
		if err != nil {
			t.Fatal(err)
		}
		if err := store.Complete(t.Context(), idempotency.Lease{ID: claim.ID, Owner: "a", Fence: begun.Fence}, record, time.Hour); err != nil {
			t.Fatal(err)
		}
		b := &harness.Bank{}
		_, err = b.Open(t, store).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		harness.WantError(t, err, codes.Internal, interceptors.ReasonRecordCorrupt)
		got, err := b.Open(t, store, idempotency.ForMethod(method, idempotency.ResponseAliases("bank.v1.Paid"))).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		if err != nil || got != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
	})
	if _, err := idempotency.NewSettings(idempotency.ResponseAliases("no name"), idempotency.Reruns(-1)); err == nil {
		t.Error("wrong options were taken")
	}
}

// A full store tells its callers when there will be room.
func TestFullStoreSaysWhenThereWillBeRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{}
		store := idempotency.NewMemory(idempotency.MemoryCapacity(1))
		c := b.Open(t, store, idempotency.ForMethod("/hopbound.test.v1.TestService/Pay", idempotency.Retention(2*time.Hour))).Customer()
		var full error
		var trailer metadata.MD
		for i := 0; full == nil && i < 1000; i++ {
			_, full = c.PayWithKey(t.Context(), fmt.Sprint("k", i), harness.Rent(), grpc.Trailer(&trailer))
		}
		harness.WantError(t, full, codes.ResourceExhausted, interceptors.ReasonStoreFull)
		if push := trailer["grpc-retry-pushback-ms"]; len(push) != 1 || push[0] != "-1" {
			t.Errorf("pushback %q, want that nobody waits for it", push)
		}
		if d := harness.RetryDelay(full); d < 2*time.Hour-time.Minute || d > 2*time.Hour+time.Minute {
			t.Errorf("there will be room in %v (%v)", d, status.Convert(full).Message())
		}
	})
}

// The store sees the error of the handler, by which it tells a conflict.
func TestStoreSeesTheErrorOfTheHandler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { return harness.ErrUnavailable }}
		none := 0
		_, err := b.Open(t, contended{harness.TakeoverStore{Memory: idempotency.NewMemory()}, &none}).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		harness.WantError(t, err, codes.Aborted, interceptors.ReasonConflict)
	})
}

// Callers of whom the Tenant function knows nothing share one part of a bounded store.
func TestCallersWithoutATenantShareOnePartOfTheStore(t *testing.T) {
	t.Parallel()
	for tenant, want := range map[string]string{"": "(none)", "acme": "acme"} {
		spy := &harness.ClaimRecorder{Store: idempotency.NewMemory()}
		b := &harness.Bank{}
		_, _ = b.Open(t, spy, idempotency.Tenant(func(context.Context) string { return tenant })).Customer().PayWithKey(t.Context(), "k", harness.Rent())
		if spy.Last.Tenant != want {
			t.Errorf("tenant %q takes the share of %q", tenant, spy.Last.Tenant)
		}
	}
}
