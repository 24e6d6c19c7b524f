package keys_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A client whose call found another running comes back, and a hedge that did does
// not end the attempt that runs.
func TestClientRetriesACallWhoseKeyIsInProgress(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]interceptors.Policy{
		"retried": {Retry: &interceptors.RetryPolicy{MaxAttempts: 20}},
		"hedged":  {Hedge: &interceptors.HedgePolicy{MaxAttempts: 2, Delay: 20 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(3 * time.Second):
						return nil
					}
				}}
				n := b.Open(t, idempotency.NewMemory(), idempotency.MaxWait(10*time.Millisecond))
				tokens := budget.New(budget.Burst(100), budget.PerRequest(50))
				c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, interceptors.WithBudget(tokens),
					interceptors.WithPolicy(interceptors.MethodPolicies{"": policy})).DialOptions()...))
				var wg sync.WaitGroup
				if name == "retried" {
					wg.Go(func() { _, _ = n.Customer().PayWithKey(t.Context(), "k", harness.Rent()) })
					synctest.Wait()
				}
				if reply, err := c.Pay(idempotency.WithKey(t.Context(), "k"), harness.Rent()); err != nil || reply.GetPayment() != "payment 1 of rent" {
					t.Errorf("got %v, %v", reply, err)
				}
				wg.Wait()
				time.Sleep(time.Minute)
			})
		})
	}
}

func TestSupersededRunThatFailsAnswersWithItsSuccessorsOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, store := idempotency.NewMemory(), harness.NewFaultyStore()
		store.Store = shared
		store.Set(store.Before, "extend", harness.ErrStore)
		zombie := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			return status.Error(codes.Internal, "the zombie's")
		}}
		first, second := zombie.Open(t, store).Customer(), (&harness.Bank{}).Open(t, shared).Customer()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := first.PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
				t.Errorf("the zombie's caller got %v", err)
			}
		})
		time.Sleep(20 * time.Second)
		if _, err := second.PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// The lease lasts also while the store does not take the outcome.
func TestLeaseLastsUntilTheOutcomeIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, store := idempotency.NewMemory(), harness.NewFaultyStore()
		store.Store = shared
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(3200 * time.Millisecond)
			store.Set(store.Before, "complete", harness.ErrStore)
			time.AfterFunc(8*time.Second, func() { store.Set(store.Before, "complete", nil) })
			return nil
		}}
		other := &harness.Bank{}
		first, second := b.Open(t, store).Customer(), other.Open(t, shared).Customer()
		var wg sync.WaitGroup
		for _, c := range []harness.Customer{first, second} {
			wg.Go(func() {
				if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
					t.Errorf("got %q, %v", got, err)
				}
			})
			time.Sleep(time.Second)
		}
		wg.Wait()
		if n := other.Calls.Load(); n != 0 {
			t.Errorf("the other ran %d times", n)
		}
	})
}

// Nobody asks again for a failure that is kept, neither the first time nor when it
// is replayed; whoever is told to come back is not told not to.
func TestPushbackDependsOnTheStateOfTheKey(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	count := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		asked.Add(1)
		return next(ctx, req)
	})
	b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
		return idempotency.Final(harness.ErrUnavailable)
	}}
	s := harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory()))
	n := harness.NewNode(t, append([]grpc.ServerOption{count}, s.ServerOptions()...)...)
	testv1.RegisterTestServiceServer(n.Server, b)
	n.Start()
	c := testv1.NewTestServiceClient(n.Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
	for range 2 {
		var trailer metadata.MD
		_, err := c.Pay(idempotency.WithKey(t.Context(), "k"), harness.Rent(), grpc.Trailer(&trailer))
		if status.Code(err) != codes.Unavailable || fmt.Sprint(trailer["grpc-retry-pushback-ms"]) != "[-1]" {
			t.Errorf("got %v, %v", err, trailer)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times for two calls", n)
	}
	synctest.Test(t, func(t *testing.T) {
		store := harness.NewFaultyStore()
		store.Set(store.Before, "complete", harness.ErrStore)
		down := harness.Idempotent(harness.Serve(t, func(context.Context) error { return harness.ErrUnavailable }).Dial(harness.NewClient(t, harness.FastRetry()).DialOptions()...))
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			_ = down(ctx) // which is optional
			return nil
		}}
		var trailer metadata.MD
		_, err := b.Open(t, store).Customer().PayWithKey(t.Context(), "k", harness.Rent(), grpc.Trailer(&trailer))
		harness.WantError(t, err, codes.Unavailable, interceptors.ReasonOutcomeUnknown)
		if fmt.Sprint(trailer["grpc-retry-pushback-ms"]) != "[1000]" {
			t.Errorf("told %v", trailer["grpc-retry-pushback-ms"])
		}
	})
}

// hung is a store that does not answer at all.
type hung struct{ idempotency.Store }

func (hung) Begin(ctx context.Context, _ idempotency.Claim) (idempotency.BeginResult, error) {
	<-ctx.Done()
	return idempotency.BeginResult{}, ctx.Err()
}

// deaf is a store that cannot wait.
type deaf struct{ idempotency.Store }

func (deaf) Wait(context.Context, idempotency.ID) error { return harness.ErrStore }

func TestStoreThatHangsOrCannotWaitKeepsNobodyPastItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2100*time.Millisecond)
		defer cancel()
		served := make(chan time.Duration, 1)
		began := time.Now()
		s := harness.NewServer(t, interceptors.WithIdempotency(hung{idempotency.NewMemory()}))
		n := harness.NewNode(t, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			defer func() { served <- time.Since(began) }()
			return next(ctx, req)
		})}, s.ServerOptions()...)...)
		testv1.RegisterTestServiceServer(n.Server, &harness.Bank{})
		n.Start()
		_, _ = n.Customer().PayWithKey(ctx, "k", harness.Rent())
		if took := <-served; took > 2200*time.Millisecond {
			t.Errorf("the server was busy for %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			return nil
		}}
		c := b.Open(t, deaf{idempotency.NewMemory()}).Customer()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		wg.Wait()
	})
}

// Every run after one that may have had an effect is told so, until there is an outcome; a
// handler that knows of none says so.
func TestRunAfterAFailureKnowsOfAPossibleEffect(t *testing.T) {
	t.Parallel()
	down := status.Error(codes.Unavailable, "the bank is down")
	for name, tc := range map[string]struct {
		failures []error
		want     string // whether each run was told
	}{
		"a failure":               {[]error{down}, "[false true]"},
		"a failure without any":   {[]error{idempotency.NoEffect(down)}, "[false false]"},
		"wrapped":                 {[]error{fmt.Errorf("at the till: %w", idempotency.NoEffect(down))}, "[false false]"},
		"and then one without":    {[]error{down, idempotency.NoEffect(down)}, "[false true true]"},
		"and before, one without": {[]error{idempotency.NoEffect(down), down}, "[false false true]"},
	} {
		var told []bool
		b := &harness.Bank{OnPay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
			told = append(told, idempotency.TakenOver(ctx))
			if int(n) <= len(tc.failures) {
				return tc.failures[n-1]
			}
			return nil
		}}
		c := b.Open(t, idempotency.NewMemory()).Customer()
		for range tc.failures {
			if _, err := c.PayWithKey(t.Context(), "k", harness.Rent()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the bank is down") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || fmt.Sprint(told) != tc.want {
			t.Errorf("%s: told %v, %v, want %s", name, told, err, tc.want)
		}
	}
}
