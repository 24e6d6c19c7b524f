package keys_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
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

// crowd makes many calls with one key while the first of them runs, and returns how often
// each answer came.
func crowd(t *testing.T, c harness.Customer, calls int) map[string]int {
	t.Helper()
	got := map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			reply, err := c.PayWithKey(t.Context(), "k", harness.Rent())
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				reply = status.Convert(err).Message()
			}
			got[reply]++
		})
	}
	wg.Wait()
	return got
}

func TestDuplicatesOfAWriteThatFailsShareItsRuns(t *testing.T) {
	t.Parallel()
	const calls = 200
	down := status.Error(codes.Unavailable, "the bank is down")
	for name, tc := range map[string]struct {
		pay  func(n int64) error
		runs int64
		want map[string]int
	}{
		"always":            {func(int64) error { return down }, 2, map[string]int{"the bank is down": calls}},
		"once":              {func(n int64) error { return map[bool]error{true: down}[n == 1] }, 2, map[string]int{"the bank is down": 1, "payment 2 of rent": calls - 1}},
		"never":             {func(int64) error { return nil }, 1, map[string]int{"payment 1 of rent": calls}},
		"for good":          {func(int64) error { return idempotency.Final(down) }, 1, map[string]int{"the bank is down": calls}},
		"by a panic, twice": {func(int64) error { panic("a bug") }, 2, map[string]int{"panicked: a bug": 2, "hopbound: the handler that ran for this key has panicked": calls - 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := &harness.Bank{OnPay: func(_ context.Context, n int64, _ *testv1.PayRequest) error {
					time.Sleep(time.Second)
					return tc.pay(n)
				}}
				server := harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory()))
				n := harness.NewNode(t, append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(harness.RecoverPanics)}, server.ServerOptions()...)...)
				testv1.RegisterTestServiceServer(n.Server, b)
				n.Start()
				got := crowd(t, n.Customer(), calls)
				if b.Calls.Load() != tc.runs {
					t.Errorf("%d runs, want %d", b.Calls.Load(), tc.runs)
				}
				for answer, n := range tc.want {
					if got[answer] != n {
						t.Errorf("got %v, want %v", got, tc.want)
					}
				}
			})
		})
	}
}

// A failure of the store is that of all who wait, and is not found out by one after another.
func TestDuplicatesShareAFailureOfTheStore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &silent{Store: idempotency.NewMemory()}
		c := (&harness.Bank{}).Open(t, store).Customer()
		began := time.Now()
		got := crowd(t, c, 100)
		if len(got) != 1 || store.asked.Load() > 2 || time.Since(began) > 5*time.Second {
			t.Errorf("got %v after %d questions and %v", got, store.asked.Load(), time.Since(began))
		}
	})
}

// silent is a store that does not answer until the time for it is over.
type silent struct {
	idempotency.Store
	asked atomic.Int64
}

func (s *silent) Begin(ctx context.Context, _ idempotency.Claim) (idempotency.BeginResult, error) {
	s.asked.Add(1)
	<-ctx.Done()
	return idempotency.BeginResult{}, ctx.Err()
}

// If the call that the others wait for ends without a run, another takes its place.
func TestDuplicatesOfACallThatIsCancelledRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		elsewhere := idempotency.NewMemory()
		claim := idempotency.Claim{ID: idempotency.NewID("", testv1.TestService_Pay_FullMethodName, "k"), Owner: "another process", Lease: time.Minute}
		if _, err := elsewhere.Begin(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
		b := &harness.Bank{}
		c := b.Open(t, elsewhere).Customer()
		hurried, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := c.PayWithKey(hurried, "k", harness.Rent())
			if err == nil {
				t.Error("the call without time has succeeded")
			}
		})
		synctest.Wait()
		got := crowd(t, c, 10)
		wg.Wait()
		if b.Calls.Load() != 1 || got["payment 1 of rent"] != 10 {
			t.Errorf("%d runs, got %v", b.Calls.Load(), got)
		}
	})
}

func TestWaitForAnotherCallsRunIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error { time.Sleep(time.Hour); return nil }}
		c := b.Open(t, idempotency.NewMemory(), idempotency.MaxWait(time.Minute)).Customer()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = c.PayWithKey(t.Context(), "k", harness.Rent()) })
		synctest.Wait()
		began := time.Now()
		_, err := c.PayWithKey(t.Context(), "k", harness.Rent())
		harness.WantError(t, err, codes.Aborted, interceptors.ReasonInProgress)
		if time.Since(began) != time.Minute {
			t.Errorf("after %v, want a minute", time.Since(began))
		}
		_, err = c.PayWithKey(t.Context(), "k", &testv1.PayRequest{Account: "food"})
		harness.WantError(t, err, codes.FailedPrecondition, interceptors.ReasonKeyReused)
		wg.Wait()
	})
}

// A failure that must not be retried is marked for all who share it.
func TestSharedFailureIsMarkedAsTheFirstIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			time.Sleep(time.Second)
			return interceptors.DoNotRetry(ctx, status.Error(codes.Unavailable, "no"))
		}}
		c := b.Open(t, idempotency.NewMemory()).Customer()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				var trailer metadata.MD
				_, err := c.PayWithKey(t.Context(), "k", harness.Rent(), grpc.Trailer(&trailer))
				if err == nil || errors.Is(err, context.Canceled) || len(trailer["grpc-retry-pushback-ms"]) != 1 || trailer["grpc-retry-pushback-ms"][0] != "-1" {
					t.Errorf("%v, pushback %q", err, trailer["grpc-retry-pushback-ms"])
				}
			})
		}
		wg.Wait()
		if b.Calls.Load() != 2 {
			t.Errorf("%d runs, want 2", b.Calls.Load())
		}
	})
}

// A call that arrives while one of those who waited makes the next run waits for that run,
// as if it had arrived during the first. It does not ask the store until the run has ended.
func TestNewcomersWaitForTheNextRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &harness.Bank{OnPay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Second)
			return status.Error(codes.Unavailable, "the bank is down")
		}}
		var asked atomic.Int64
		c := b.Open(t, harness.HookedStore{Store: idempotency.NewMemory(), Hook: func() { asked.Add(1) }}).Customer()
		var wg sync.WaitGroup
		for range 2 { // one run each
			wg.Go(func() { _, _ = c.PayWithKey(t.Context(), "k", harness.Rent()) })
		}
		time.Sleep(1500 * ms)
		got := crowd(t, c, 10) // of whom one makes the third run, whose failure the others share
		wg.Wait()
		if b.Calls.Load() != 3 || asked.Load() != 3 || got["the bank is down"] != 10 {
			t.Errorf("%d runs, %d questions to the store, newcomers got %v; want 3, 3 and the bank's failure", b.Calls.Load(), asked.Load(), got)
		}
	})
}
