package interceptors_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
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
		b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute) // six leases
			return nil
		}}
		c := b.open(t, idempotency.NewMemory()).customer()
		first := make(chan error, 1)
		go func() {
			_, err := c.pay(t.Context(), "k", rent())
			first <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var trailer metadata.MD
		began := time.Now()
		_, err := c.pay(ctx, "k", rent(), grpc.Trailer(&trailer))
		wantError(t, err, codes.Aborted, interceptors.ReasonInProgress)
		if took := time.Since(began); took < 4900*time.Millisecond || took >= 5*time.Second {
			t.Errorf("waited %v", took)
		}
		if retryDelay(err) != time.Second || fmt.Sprint(trailer["grpc-retry-pushback-ms"]) != "[1000]" {
			t.Errorf("told to come back after %v, %v", retryDelay(err), trailer)
		}
		began = time.Now()
		if got, err := c.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
			t.Errorf("got %q, %v", got, err)
		}
		if took := time.Since(began); took > 56*time.Second {
			t.Errorf("waited %v for what took 55 s more", took)
		}
		if err := <-first; err != nil {
			t.Error(err)
		}
		if n := b.calls.Load(); n != 1 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestMaxWaitBoundsTheWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			return nil
		}}
		c := b.open(t, idempotency.NewMemory(), idempotency.MaxWait(0)).customer()
		go func() { _, _ = c.pay(t.Context(), "k", rent()) }()
		synctest.Wait()
		began := time.Now()
		_, err := c.pay(t.Context(), "k", rent())
		wantError(t, err, codes.Aborted, interceptors.ReasonInProgress)
		if took := time.Since(began); took > time.Millisecond {
			t.Errorf("waited %v", took)
		}
		time.Sleep(2 * time.Minute)
	})
}

func TestWhatOneTenantDidIsNotAnothers(t *testing.T) {
	t.Parallel()
	b := &bank{}
	c := b.open(t, idempotency.NewMemory(), idempotency.Tenant(func(ctx context.Context) string {
		return fmt.Sprint(metadata.ValueFromIncomingContext(ctx, "x-tenant"))
	})).customer()
	for i, tenant := range []string{"a", "b", "a", "b"} {
		got, err := c.pay(metadata.AppendToOutgoingContext(t.Context(), "x-tenant", tenant), "k", rent())
		if want := fmt.Sprintf("payment %d of rent", i%2+1); err != nil || got != want {
			t.Errorf("tenant %s: got %q, %v", tenant, got, err)
		}
	}
}

func TestServerThatObservesRunsEachCall(t *testing.T) {
	t.Parallel()
	b := &bank{}
	store := idempotency.NewMemory()
	c := b.openWith(t, interceptors.WithIdempotency(store), interceptors.WithMode(interceptors.Observe)).customer()
	for range 2 {
		if _, err := c.pay(t.Context(), "k", rent()); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Pay(t.Context(), rent()); err != nil {
		t.Error(err)
	}
	if n := b.calls.Load(); n != 3 || store.Stats().Records != 0 {
		t.Errorf("%d calls, %d records", n, store.Stats().Records)
	}
}
