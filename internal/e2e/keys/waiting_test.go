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
)

// Whoever waits does so within its own deadline, and is told when to come back
// in time to hear it.
func TestJoinersWaitWithinTheirOwnDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute) // six leases
			return nil
		}}
		c := b.Open(t, idempotency.NewMemory()).Customer()
		first := make(chan error, 1)
		go func() {
			_, err := c.PayWithKey(t.Context(), "k", harness.Rent())
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var trailer metadata.MD
		began := time.Now()
		_, err := c.PayWithKey(ctx, "k", harness.Rent(), grpc.Trailer(&trailer))
		harness.WantError(t, err, codes.Aborted, interceptors.ReasonInProgress)
		if took := time.Since(began); took < 4900*time.Millisecond || took >= 5*time.Second {
			t.Errorf("waited %v", took)
		}
		if harness.RetryDelay(err) != time.Second || fmt.Sprint(trailer["grpc-retry-pushback-ms"]) != "[1000]" {
			t.Errorf("told to come back after %v, %v", harness.RetryDelay(err), trailer)
		}
		began = time.Now()
		if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
			t.Errorf("got %q, %v", got, err)
		}
		if took := time.Since(began); took > 56*time.Second {
			t.Errorf("waited %v for what took 55 s more", took)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		if n := b.Calls.Load(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestMaxWaitBoundsTheWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			return nil
		}}
		c := b.Open(t, idempotency.NewMemory(), idempotency.MaxWait(0)).Customer()
		go func() { _, _ = c.PayWithKey(t.Context(), "k", harness.Rent()) }()
		synctest.Wait()
		began := time.Now()
		_, err := c.PayWithKey(t.Context(), "k", harness.Rent())
		harness.WantError(t, err, codes.Aborted, interceptors.ReasonInProgress)
		if took := time.Since(began); took > time.Millisecond {
			t.Errorf("waited %v", took)
		}
		time.Sleep(2 * time.Minute)
	})
}

func TestWhatOneTenantDidIsNotAnothers(t *testing.T) {
	t.Parallel()
	b := &harness.Bank{}
	c := b.Open(t, idempotency.NewMemory(), idempotency.Tenant(func(ctx context.Context) string {
		return fmt.Sprint(metadata.ValueFromIncomingContext(ctx, "x-tenant"))
	})).Customer()
	for i, tenant := range []string{"a", "b", "a", "b"} {
		got, err := c.PayWithKey(metadata.AppendToOutgoingContext(t.Context(), "x-tenant", tenant), "k", harness.Rent())
		if want := fmt.Sprintf("payment %d of rent", i%2+1); err != nil || got != want {
			t.Errorf("tenant %s: got %q, %v", tenant, got, err)
		}
	}
}
