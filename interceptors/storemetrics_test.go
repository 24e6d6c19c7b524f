package interceptors_test

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
		reader, meter := metered()
		release := make(chan struct{})
		b := &bank{pay: func(_ context.Context, n int64, req *testv1.PayRequest) error {
			switch {
			case req.GetAccount() == "slow":
				<-release
			case n == 1:
				return errUnavailable
			}
			return nil
		}}
		store := idempotency.NewMemory(idempotency.MemoryBytes(1 << 20))
		c := b.openWith(t, meter, interceptors.WithIdempotency(store, idempotency.Retention(time.Hour))).customer()
		for range 2 {
			_, _ = c.pay(t.Context(), "fails first", rent())
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.pay(t.Context(), "slow", &testv1.PayRequest{Account: "slow"})
		}()
		synctest.Wait()
		wantMetrics(t, collected(t, reader),
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
			_, _ = c.pay(t.Context(), fmt.Sprint("k", i), rent())
		}
		wantMetrics(t, collected(t, reader),
			"hopbound.idempotency.store.pending {write} {hopbound.idempotency.store=memory} 0",
			"hopbound.idempotency.store.stored {outcome} {hopbound.idempotency.store=memory} 302",
			"hopbound.idempotency.store.purged {record} {hopbound.idempotency.store=memory} 2")
	})
}

// A lease that was lost is counted by its cause, and logged.
func TestLostLeaseIsCountedByItsCause(t *testing.T) {
	t.Parallel()
	for cause, tc := range map[string]struct {
		lose func(store *rigged, claim idempotency.Claim)
	}{
		"renew_failed": {func(store *rigged, _ idempotency.Claim) {
			store.set(store.before, "extend", errStore)
			time.Sleep(time.Minute)
		}},
		"record_lost": {func(store *rigged, claim idempotency.Claim) {
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
				reader, meter := metered()
				var log bytes.Buffer
				store := rig()
				spy := &claimSpy{Store: store}
				b := &bank{}
				b.pay = func(_ context.Context, n int64, _ *testv1.PayRequest) error {
					if n > 1 {
						return nil
					}
					tc.lose(store, spy.last)
					other := spy.last // another server takes over, and completes
					other.Owner = "another server"
					begun, err := store.Store.Begin(context.Background(), other)
					if err != nil || begun.State != idempotency.Run {
						t.Errorf("another server is told %v, %v", begun.State, err)
					}
					store.set(store.before, "extend", nil)
					return errUnavailable
				}
				c := b.openWith(t, meter, interceptors.WithIdempotency(spy), interceptors.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).customer()
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				_, _ = c.pay(ctx, "the secret key", rent())
				wantMetrics(t, collected(t, reader),
					"hopbound.idempotency.store.lost_leases {lease} {hopbound.idempotency.cause="+cause+",hopbound.idempotency.store=memory} 1")
				if got := log.String(); !strings.Contains(got, "cause="+cause) && !strings.Contains(got, "step=extend") || strings.Contains(got, "secret") {
					t.Error(got)
				}
			})
		})
	}
}

// claimSpy keeps the last claim.
type claimSpy struct {
	idempotency.Store
	last idempotency.Claim
}

func (*claimSpy) Kind() string { return "memory" }

func (s *claimSpy) Begin(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	c.Running = nil // as in another process
	s.last = c
	return s.Store.Begin(ctx, c)
}

// A store that fails is logged with its cause, once a second however many calls there are.
func TestFailureOfTheStoreIsLoggedOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b, store := &bank{}, rig()
		store.set(store.before, "begin", errors.New("connection refused"))
		c := b.openWith(t, interceptors.WithIdempotency(store), interceptors.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))).customer()
		for range 50 {
			_, _ = c.pay(t.Context(), "the secret key", rent())
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
		_, _ = c.pay(t.Context(), "k", rent())
		if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "suppressed=99") { // each call asks twice
			t.Error(got)
		}
	})
	if _, err := interceptors.NewServer(interceptors.WithLogger(nil)); err == nil {
		t.Error("no logger was taken")
	}
}
