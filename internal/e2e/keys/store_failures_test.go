package keys_test

import (
	"context"
	"strings"
	"sync"
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

func TestHandlerDoesNotRunWithoutAStore(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err    error
		code   codes.Code
		reason string
	}{
		"unreachable": {harness.ErrStore, codes.Unavailable, interceptors.ReasonStoreUnavailable},
		"full":        {idempotency.ErrFull, codes.ResourceExhausted, interceptors.ReasonStoreFull},
		"corrupt":     {idempotency.ErrCorrupt, codes.Internal, interceptors.ReasonRecordCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, store := &harness.Bank{}, harness.NewFaultyStore()
			store.Set(store.Before, "begin", tc.err)
			c := b.Open(t, store).Customer()
			_, err := c.PayWithKey(t.Context(), "k", harness.Rent())
			harness.WantError(t, err, tc.code, tc.reason)
			if strings.Contains(err.Error(), harness.ErrStore.Error()) {
				t.Errorf("the caller is told of the store: %v", err)
			}
			if n := b.Calls.Load(); n != 0 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// A claim whose answer was lost is asked for again by the same owner.
func TestClaimWithoutAnAnswerIsRepeated(t *testing.T) {
	t.Parallel()
	b, store := &harness.Bank{}, harness.NewFaultyStore()
	store.Set(store.After, "begin", harness.ErrStore)
	asked := 0
	c := b.Open(t, harness.HookedStore{Store: store, Hook: func() {
		if asked++; asked == 2 {
			store.Set(store.After, "begin", nil)
		}
	}}).Customer()
	if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
		t.Errorf("got %q, %v", got, err)
	}
}

// When nobody can say whether an outcome was stored, its caller is told so, and
// the key stays locked until the lease has run out.
func TestOutcomeWhoseFateIsUnknownKeepsTheLock(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"the step was not taken": false, "the answer was lost": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, store := &harness.Bank{}, harness.NewFaultyStore()
				at := store.Before
				if lost {
					at = store.After
				}
				store.Set(at, "complete", harness.ErrStore)
				c := b.Open(t, store).Customer()
				began := time.Now()
				_, err := c.PayWithKey(t.Context(), "k", harness.Rent())
				harness.WantError(t, err, codes.Unavailable, interceptors.ReasonOutcomeUnknown)
				if took := time.Since(began); took > idempotency.DefaultLease || took < idempotency.DefaultLease*9/10 {
					t.Errorf("tried for %v", took)
				}
				store.Set(at, "complete", nil)
				got, err := c.PayWithKey(t.Context(), "k", harness.Rent())
				want := map[bool]string{false: "payment 2 of rent", true: "payment 1 of rent"}[lost] // a lease later, and at once
				if err != nil || got != want {
					t.Errorf("got %q, %v, want %q", got, err, want)
				}
			})
		})
	}
}

// While its handler runs, a lease is extended, also through times in which the
// store does not answer.
func TestLeaseLastsForAsLongAsTheHandlerRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := harness.NewFaultyStore()
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			store.Set(store.Before, "extend", harness.ErrStore)
			time.Sleep(5 * time.Second)
			store.Set(store.Before, "extend", nil)
			time.Sleep(time.Minute)
			return nil
		}}
		c := b.Open(t, store).Customer()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if got, err := c.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of rent" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		}
		wg.Wait()
	})
}

// A server that was cut off from the store for longer than its lease is taken
// over: its handler is told so by its context, what it returns is void, and its
// caller gets its successor's outcome.
func TestSupersededRunAnswersWithItsSuccessorsOutcome(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		back      time.Duration // when the zombie's store answers again
		cancelled bool
	}{
		"that finds out while its handler runs": {15 * time.Second, true},
		"that finds out when it completes":      {time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				shared := idempotency.NewMemory()
				store := harness.NewFaultyStore()
				store.Store = shared
				store.Set(store.Before, "extend", harness.ErrStore)
				zombie := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
					time.AfterFunc(tc.back, func() { store.Set(store.Before, "extend", nil) })
					select {
					case <-ctx.Done():
					case <-time.After(time.Minute):
					}
					if cancelled := ctx.Err() != nil; cancelled != tc.cancelled {
						t.Errorf("cancelled %v", cancelled)
					}
					_ = grpc.SetHeader(ctx, metadata.Pairs("x-zombie", "true"))
					return nil
				}}
				var takenOver bool
				successor := &harness.Bank{OnPay: func(ctx context.Context, _ int64, req *testv1.PayRequest) error {
					takenOver = idempotency.TakenOver(ctx)
					time.Sleep(10 * time.Second)
					req.Account = "successor's"
					return nil
				}}
				first, second := zombie.Open(t, store).Customer(), successor.Open(t, shared).Customer()
				var wg sync.WaitGroup
				wg.Go(func() {
					var header metadata.MD
					got, err := first.PayWithKey(t.Context(), "k", harness.Rent(), grpc.Header(&header))
					if err != nil || got != "payment 1 of successor's" || len(header["x-zombie"]) != 0 || len(header["idempotency-replayed"]) != 1 {
						t.Errorf("the zombie's caller got %q, %v, header %v", got, err, header)
					}
				})
				synctest.Wait()
				if got, err := second.PayWithKey(t.Context(), "k", harness.Rent()); err != nil || got != "payment 1 of successor's" {
					t.Errorf("got %q, %v", got, err)
				}
				wg.Wait()
				if !takenOver {
					t.Error("the successor was not told that it took over")
				}
			})
		})
	}
}

// A zombie whose successor has given up does not run its handler again.
func TestSupersededRunWithoutASuccessorsOutcomeIsLeaseLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := idempotency.NewMemory()
		store := harness.NewFaultyStore()
		store.Store = shared
		store.Set(store.Before, "extend", harness.ErrStore)
		zombie := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			return nil
		}}
		successor := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { return harness.ErrUnavailable }}
		first, second := zombie.Open(t, store).Customer(), successor.Open(t, shared).Customer()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := first.PayWithKey(t.Context(), "k", harness.Rent())
			harness.WantError(t, err, codes.Aborted, interceptors.ReasonLeaseLost)
		})
		time.Sleep(20 * time.Second)
		if _, err := second.PayWithKey(t.Context(), "k", harness.Rent()); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
		wg.Wait()
		if n := zombie.Calls.Load(); n != 1 {
			t.Errorf("the zombie ran %d times", n)
		}
		if n := shared.Stats().Records; n != 1 { // that there may have been an effect
			t.Errorf("%d records are left", n)
		}
	})
}

func TestCallThatIsOverBeforeItsTurnDoesNotRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{}
		store := idempotency.NewMemory()
		slow := harness.HookedStore{Store: store, Hook: func() { time.Sleep(time.Second) }}
		c := b.Open(t, slow).Customer()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := c.PayWithKey(ctx, "k", harness.Rent()); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)
		if n := b.Calls.Load(); n != 0 || store.Stats().Records != 0 {
			t.Errorf("%d calls, %d records", n, store.Stats().Records)
		}
	})
}

// A claim that was made while its caller went away is given up, and the handler
// does not run.
func TestClaimOfACallerThatHasGoneIsReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{}
		store := idempotency.NewMemory()
		c := b.Open(t, lateStore{store}).Customer()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		if _, err := c.PayWithKey(ctx, "k", harness.Rent()); status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)
		if n := b.Calls.Load(); n != 0 || store.Stats().Records != 0 {
			t.Errorf("%d calls, %d records", n, store.Stats().Records)
		}
	})
}

// lateStore claims at once, and takes a second to say so.
type lateStore struct{ idempotency.Store }

func (l lateStore) Begin(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	b, err := l.Store.Begin(ctx, c)
	time.Sleep(time.Second)
	return b, err
}
