package keys_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

// A handler is told by a transaction, too, that another may have had its effect,
// and its calls have the keys that they had there.
func TestHandlerInATransactionKnowsThatItTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			takenOver bool
			child     idempotency.Key
		)
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			takenOver = idempotency.TakenOver(ctx)
			child, _ = idempotency.ForCall(ctx, "/shop.Ledger/Write", true)
			return nil
		}}
		var keys []idempotency.Key
		for _, store := range []idempotency.Store{harness.TakeoverStore{Memory: idempotency.NewMemory()}, idempotency.NewMemory()} {
			if _, err := b.Open(t, store).Customer().PayWithKey(t.Context(), "k", harness.Rent()); err != nil {
				t.Error(err)
			}
			if _, transacts := store.(idempotency.Transactor); transacts != takenOver {
				t.Errorf("taken over %v", takenOver)
			}
			keys = append(keys, child)
		}
		if keys[0] == "" || keys[0] != keys[1] {
			t.Errorf("keys %q", keys)
		}
	})
}

// waitRecorder keeps how long each transaction may wait for another server.
type waitRecorder struct {
	harness.TakeoverStore
	waits *[]time.Duration
}

func (w waitRecorder) Transact(ctx context.Context, claim idempotency.Claim, run func(context.Context, idempotency.BeginResult) idempotency.Verdict) (idempotency.BeginResult, error) {
	*w.waits = append(*w.waits, claim.Wait)
	return w.TakeoverStore.Transact(ctx, claim, run)
}

// The bound is the time left before the deadline, less 20 ms for the answer, and at most
// MaxWait. A call that has waited for another in its own process has only the rest.
func TestTransactionWaitsWithinTheBoundOfItsCall(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		timeout time.Duration // of the call; 0 is none
		maxWait time.Duration // 0 is none
		want    []time.Duration
	}{
		"the deadline":            {10 * time.Second, 0, []time.Duration{9980 * ms, 6980 * ms}},
		"MaxWait":                 {0, 5 * time.Second, []time.Duration{5 * time.Second, 2 * time.Second}},
		"MaxWait is the shorter":  {10 * time.Second, 5 * time.Second, []time.Duration{5 * time.Second, 2 * time.Second}},
		"no bound":                {0, 0, []time.Duration{0, 0}},
		"the deadline is shorter": {5 * time.Second, 10 * time.Second, []time.Duration{4980 * ms, 1980 * ms}},
	} {
		synctest.Test(t, func(t *testing.T) {
			var opts []idempotency.Option
			if tc.maxWait > 0 {
				opts = append(opts, idempotency.MaxWait(tc.maxWait))
			}
			b := &harness.Bank{OnPay: func(_ context.Context, n int64, _ *testv1.PayRequest) error {
				if n == 1 {
					time.Sleep(3 * time.Second)
				}
				return nil
			}}
			var waits []time.Duration
			c := b.Open(t, waitRecorder{harness.TakeoverStore{Memory: idempotency.NewMemory()}, &waits}, opts...).Customer()
			ctx := t.Context()
			if tc.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tc.timeout)
				defer cancel()
			}
			var wg sync.WaitGroup
			for range 2 { // the second waits three seconds for the first
				wg.Go(func() { _, _ = c.PayWithKey(ctx, "k", harness.Rent()) })
				synctest.Wait()
			}
			wg.Wait()
			if !slices.Equal(waits, tc.want) {
				t.Errorf("%s: the transactions may wait %v, want %v", name, waits, tc.want)
			}
		})
	}
}
