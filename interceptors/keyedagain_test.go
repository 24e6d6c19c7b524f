package interceptors_test

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
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A hop that keeps no outcomes makes the same child keys when its call is repeated.
func TestHopWithoutAStorePassesKeysOn(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]interceptors.ServerOption{
		"no store": nil,
		"off":      {interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.Off())},
	} {
		leaf := &bank{}
		down := leaf.open(t, idempotency.NewMemory()).downstream()
		middle := &bank{pay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
			if _, err := down.Pay(ctx, rent()); err != nil {
				return err
			}
			if n == 1 {
				return errUnavailable
			}
			return nil
		}}
		c := middle.openWith(t, opts...).downstream()
		if _, err := c.Pay(idempotency.WithKey(t.Context(), "k"), rent()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if n := leaf.calls.Load(); n != 1 || middle.calls.Load() != 2 {
			t.Errorf("%s: the leaf ran %d times, the middle %d", name, n, middle.calls.Load())
		}
	}
}

func TestInvalidKeyInTheRequestIsRefused(t *testing.T) {
	t.Parallel()
	b := &bank{}
	n := b.open(t, idempotency.NewMemory())
	for _, id := range []string{"pago-ñ-1", " order 7", strings.Repeat("x", 300)} {
		req := rent()
		req.RequestId = id
		_, err := n.downstream().Pay(t.Context(), req)
		wantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
		_, err = n.customer().Pay(t.Context(), req)
		wantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
	}
	_, err := n.downstream().Pay(metadata.AppendToOutgoingContext(t.Context(), idempotency.Header, "ñ"), rent())
	wantError(t, err, codes.InvalidArgument, interceptors.ReasonKeyInvalid)
	if _, err := n.downstream().Pay(t.Context(), (*testv1.PayRequest)(nil)); err != nil {
		t.Errorf("an empty request: %v", err)
	}
	if n := b.calls.Load(); n != 1 {
		t.Errorf("%d calls", n)
	}
}

// A handler that passes its incoming metadata on does not send its own key instead
// of its children's.
func TestForwardedKeyIsNoKeyOfTheCalls(t *testing.T) {
	t.Parallel()
	leaf := &bank{}
	down := leaf.open(t, idempotency.NewMemory()).downstream()
	b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
		md, _ := metadata.FromIncomingContext(ctx)
		ctx = metadata.NewOutgoingContext(ctx, md.Copy())
		for _, step := range []string{"first", "second"} {
			if _, err := down.Pay(idempotency.WithStep(ctx, step), rent()); err != nil {
				return err
			}
		}
		return nil
	}}
	if _, err := b.open(t, idempotency.NewMemory()).customer().pay(t.Context(), "k", rent()); err != nil {
		t.Error(err)
	}
	if n := leaf.calls.Load(); n != 2 {
		t.Errorf("two steps made %d writes", n)
	}
}

// A client whose call found another running comes back, and a hedge that did does
// not end the attempt that runs.
func TestClientComesBackForWhatIsInProgress(t *testing.T) {
	t.Parallel()
	for name, policy := range map[string]interceptors.Policy{
		"retried": {Retry: &interceptors.RetryPolicy{MaxAttempts: 20}},
		"hedged":  {Hedge: &interceptors.HedgePolicy{MaxAttempts: 2, Delay: 20 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(3 * time.Second):
						return nil
					}
				}}
				n := b.open(t, idempotency.NewMemory(), idempotency.MaxWait(10*time.Millisecond))
				tokens := budget.New(budget.Burst(100), budget.PerRequest(50))
				c := testv1.NewTestServiceClient(n.dial(newClient(t, interceptors.WithBudget(tokens),
					interceptors.WithPolicy(interceptors.MethodPolicies{"": policy})).DialOptions()...))
				var wg sync.WaitGroup
				if name == "retried" {
					wg.Go(func() { _, _ = n.customer().pay(t.Context(), "k", rent()) })
					synctest.Wait()
				}
				if reply, err := c.Pay(idempotency.WithKey(t.Context(), "k"), rent()); err != nil || reply.GetPayment() != "payment 1 of rent" {
					t.Errorf("got %v, %v", reply, err)
				}
				wg.Wait()
				time.Sleep(time.Minute)
			})
		})
	}
}

func TestZombieThatFailsAnswersWithItsSuccessorsOutcome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, store := idempotency.NewMemory(), rig()
		store.Store = shared
		store.set(store.before, "extend", errStore)
		zombie := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			return status.Error(codes.Internal, "the zombie's")
		}}
		first, second := zombie.open(t, store).customer(), (&bank{}).open(t, shared).customer()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := first.pay(t.Context(), "k", rent()); err != nil {
				t.Errorf("the zombie's caller got %v", err)
			}
		})
		time.Sleep(20 * time.Second)
		if _, err := second.pay(t.Context(), "k", rent()); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// The lease lasts also while the store does not take the outcome.
func TestLeaseLastsUntilTheOutcomeIsStored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared, store := idempotency.NewMemory(), rig()
		store.Store = shared
		b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(3200 * time.Millisecond)
			store.set(store.before, "complete", errStore)
			time.AfterFunc(8*time.Second, func() { store.set(store.before, "complete", nil) })
			return nil
		}}
		other := &bank{}
		first, second := b.open(t, store).customer(), other.open(t, shared).customer()
		var wg sync.WaitGroup
		for _, c := range []customer{first, second} {
			wg.Go(func() {
				if got, err := c.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
					t.Errorf("got %q, %v", got, err)
				}
			})
			time.Sleep(time.Second)
		}
		wg.Wait()
		if n := other.calls.Load(); n != 0 {
			t.Errorf("the other ran %d times", n)
		}
	})
}

// Nobody asks again for a failure that is kept, neither the first time nor when it
// is replayed; whoever is told to come back is not told not to.
func TestPushbackSaysWhatIsKnownOfTheKey(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	count := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		asked.Add(1)
		return next(ctx, req)
	})
	b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error { return idempotency.Final(errUnavailable) }}
	s := newServer(t, interceptors.WithIdempotency(idempotency.NewMemory()))
	n := newNode(t, append([]grpc.ServerOption{count}, s.ServerOptions()...)...)
	testv1.RegisterTestServiceServer(n.server, b)
	n.start()
	c := testv1.NewTestServiceClient(n.dial(newClient(t, quick()).DialOptions()...))
	for range 2 {
		var trailer metadata.MD
		_, err := c.Pay(idempotency.WithKey(t.Context(), "k"), rent(), grpc.Trailer(&trailer))
		if status.Code(err) != codes.Unavailable || fmt.Sprint(trailer["grpc-retry-pushback-ms"]) != "[-1]" {
			t.Errorf("got %v, %v", err, trailer)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times for two calls", n)
	}
	synctest.Test(t, func(t *testing.T) {
		store := rig()
		store.set(store.before, "complete", errStore)
		down := idempotent(serve(t, func(context.Context) error { return errUnavailable }).dial(newClient(t, quick()).DialOptions()...))
		b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			_ = down(ctx) // which is optional
			return nil
		}}
		var trailer metadata.MD
		_, err := b.open(t, store).customer().pay(t.Context(), "k", rent(), grpc.Trailer(&trailer))
		wantError(t, err, codes.Unavailable, interceptors.ReasonOutcomeUnknown)
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

func (deaf) Wait(context.Context, idempotency.ID) error { return errStore }

func TestStoreThatHangsOrCannotWaitKeepsNobodyPastItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2100*time.Millisecond)
		defer cancel()
		served := make(chan time.Duration, 1)
		began := time.Now()
		s := newServer(t, interceptors.WithIdempotency(hung{idempotency.NewMemory()}))
		n := newNode(t, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			defer func() { served <- time.Since(began) }()
			return next(ctx, req)
		})}, s.ServerOptions()...)...)
		testv1.RegisterTestServiceServer(n.server, &bank{})
		n.start()
		_, _ = n.customer().pay(ctx, "k", rent())
		if took := <-served; took > 2200*time.Millisecond {
			t.Errorf("the server was busy for %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			return nil
		}}
		c := b.open(t, deaf{idempotency.NewMemory()}).customer()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if got, err := c.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		wg.Wait()
	})
}

// Every run after one that may have had an effect is told so, until there is an outcome; a
// handler that knows of none says so.
func TestRunAfterAFailureIsToldOfAPossibleEffect(t *testing.T) {
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
		b := &bank{pay: func(ctx context.Context, n int64, _ *testv1.PayRequest) error {
			told = append(told, idempotency.TakenOver(ctx))
			if int(n) <= len(tc.failures) {
				return tc.failures[n-1]
			}
			return nil
		}}
		c := b.open(t, idempotency.NewMemory()).customer()
		for range tc.failures {
			if _, err := c.pay(t.Context(), "k", rent()); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the bank is down") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := c.pay(t.Context(), "k", rent()); err != nil || fmt.Sprint(told) != tc.want {
			t.Errorf("%s: told %v, %v, want %s", name, told, err, tc.want)
		}
	}
}
