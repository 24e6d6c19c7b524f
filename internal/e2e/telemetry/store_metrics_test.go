package telemetry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

// wantMetrics fails the test unless each line is among those that were collected.
func wantMetrics(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("there is no %q in:\n%s", line, got)
		}
	}
}

// What becomes of records is counted by the store alone.
func TestRecordsOfAStoreAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader, meter := harness.Metered()
		release := make(chan struct{})
		b := &harness.Bank{OnPay: func(_ context.Context, n int64, req *testv1.PayRequest) error {
			switch {
			case req.GetAccount() == "slow":
				<-release
			case n == 1:
				return harness.ErrUnavailable
			}
			return nil
		}}
		store := idempotency.NewMemory(idempotency.MemoryBytes(1 << 20))
		c := b.OpenWith(t, meter, interceptors.WithIdempotency(store, idempotency.Retention(time.Hour))).Customer()
		for range 2 {
			_, _ = c.PayWithKey(t.Context(), "fails first", harness.Rent())
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.PayWithKey(t.Context(), "slow", &testv1.PayRequest{Account: "slow"})
		}()
		synctest.Wait()
		wantMetrics(t, harness.Collected(t, reader),
			"hopbound.idempotency.store.pending {write} {hopbound.idempotency.store=memory} 1",
			"hopbound.idempotency.store.stored {outcome} {hopbound.idempotency.store=memory} 1",
			"hopbound.idempotency.store.taken_over {run} {hopbound.idempotency.store=memory} 1",
			"hopbound.idempotency.store.records {record} {hopbound.idempotency.store=memory} 2",
			"hopbound.idempotency.store.fill 1 {hopbound.idempotency.store=memory} 0.001",
			"hopbound.idempotency.store.purged {record} {hopbound.idempotency.store=memory} 0",
			"hopbound.idempotency.store.purge_failures {failure} {hopbound.idempotency.store=memory} 0")
		close(release)
		<-done
		time.Sleep(2 * time.Hour)
		for i := range 300 {
			_, _ = c.PayWithKey(t.Context(), fmt.Sprint("k", i), harness.Rent())
		}
		wantMetrics(t, harness.Collected(t, reader),
			"hopbound.idempotency.store.pending {write} {hopbound.idempotency.store=memory} 0",
			"hopbound.idempotency.store.stored {outcome} {hopbound.idempotency.store=memory} 302",
			"hopbound.idempotency.store.purged {record} {hopbound.idempotency.store=memory} 2")
	})
}

// A lease that was lost is counted by its cause, and logged.
func TestLostLeaseIsCountedByItsCause(t *testing.T) {
	t.Parallel()
	for cause, tc := range map[string]struct {
		lose func(store *harness.FaultyStore, claim idempotency.Claim)
	}{
		"renew_failed": {func(store *harness.FaultyStore, _ idempotency.Claim) {
			store.Set(store.Before, "extend", harness.ErrStore)
			time.Sleep(time.Minute)
		}},
		"record_lost": {func(store *harness.FaultyStore, claim idempotency.Claim) {
			b, err := store.Store.Begin(context.Background(), claim)
			if err == nil { // somebody frees the record of the owner
				err = store.Store.Release(context.Background(), idempotency.Lease{ID: claim.ID, Owner: claim.Owner, Fence: b.Fence}, true, time.Hour)
			}
			if err != nil {
				panic(err)
			}
		}},
	} {
		t.Run(cause, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				reader, meter := harness.Metered()
				var log bytes.Buffer
				store := harness.NewFaultyStore()
				spy := &harness.ClaimRecorder{Store: store}
				b := &harness.Bank{}
				b.OnPay = func(_ context.Context, n int64, _ *testv1.PayRequest) error {
					if n > 1 {
						return nil
					}
					tc.lose(store, spy.Last)
					other := spy.Last // another server takes over, and completes
					other.Owner = "another server"
					begun, err := store.Store.Begin(context.Background(), other)
					if err != nil || begun.State != idempotency.Run {
						t.Errorf("another server is told %v, %v", begun.State, err)
					}
					store.Set(store.Before, "extend", nil)
					return harness.ErrUnavailable
				}
				c := b.OpenWith(t, meter, interceptors.WithIdempotency(spy), interceptors.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).Customer()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				_, _ = c.PayWithKey(ctx, "the secret key", harness.Rent())
				wantMetrics(t, harness.Collected(t, reader),
					"hopbound.idempotency.store.lost_leases {lease} {hopbound.idempotency.cause="+cause+",hopbound.idempotency.store=memory} 1")
				if got := log.String(); !strings.Contains(got, "cause="+cause) && !strings.Contains(got, "step=extend") || strings.Contains(got, "secret") {
					t.Error(got)
				}
			})
		})
	}
}

// A store that fails is logged with its cause, once a second however many calls there are.
func TestFailureOfTheStoreIsLoggedOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b, store := &harness.Bank{}, harness.NewFaultyStore()
		store.Set(store.Before, "begin", errors.New("connection refused"))
		c := b.OpenWith(t, interceptors.WithIdempotency(store), interceptors.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).Customer()
		for range 50 {
			_, _ = c.PayWithKey(t.Context(), "the secret key", harness.Rent())
		}
		got := log.String()
		for _, want := range []string{"step=begin", `error="connection refused"`, "method=/hopbound.test.v1.TestService/Pay", "key_hash=", "suppressed=0"} {
			if !strings.Contains(got, want) {
				t.Errorf("there is no %s in %s", want, got)
			}
		}
		if strings.Count(got, "\n") != 2 || strings.Contains(got, "secret") { // the other is the warning of Check
			t.Error(got)
		}
		time.Sleep(2 * time.Second)
		log.Reset()
		_, _ = c.PayWithKey(t.Context(), "k", harness.Rent())
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "suppressed=99") { // each call asks twice
			t.Error(got)
		}
	})
	if _, err := interceptors.NewServer(interceptors.WithLogger(nil)); err == nil {
		t.Error("no logger was taken")
	}
}

// A step that ends because its caller has no more time is not a failure of the store, and is not logged.
// A step that outlasts the store's own timeout is one.
func TestStepThatTheCallersDeadlineEndsIsNoFailure(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		timeout time.Duration // of the caller
		result  string
		logged  bool
	}{
		"the caller's deadline": {100 * ms, "ended", false},
		"the store's timeout":   {time.Minute, "error", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				reader, meter := harness.Metered()
				var log bytes.Buffer
				b, store := &harness.Bank{}, &hangingStore{harness.NewFaultyStore()}
				c := b.OpenWith(t, meter, interceptors.WithIdempotency(store, idempotency.SharedKeys()), interceptors.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).Customer()
				ctx, cancel := context.WithTimeout(t.Context(), tc.timeout)
				defer cancel()
				_, _ = c.PayWithKey(ctx, "a key", harness.Rent())
				time.Sleep(time.Minute) // until the handler has returned
				if got := harness.Collected(t, reader); !strings.Contains(got, "hopbound.idempotency.result="+tc.result+",hopbound.idempotency.step=begin") {
					t.Error(got)
				}
				if logged := strings.Contains(log.String(), "has failed"); logged != tc.logged {
					t.Error(log.String())
				}
			})
		})
	}
}

// hangingStore never answers.
type hangingStore struct{ *harness.FaultyStore }

func (hangingStore) Begin(ctx context.Context, _ idempotency.Claim) (idempotency.BeginResult, error) {
	<-ctx.Done()
	return idempotency.BeginResult{}, ctx.Err()
}
