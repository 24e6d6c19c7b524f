package interceptors_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rigged is a store whose steps can be made to fail before they are taken, or
// after.
type rigged struct {
	idempotency.Store

	mu            sync.Mutex
	before, after map[string]error
}

func rig() *rigged {
	return &rigged{Store: idempotency.NewMemory(), before: map[string]error{}, after: map[string]error{}}
}

var errStore = errors.New("the store does not answer")

func (r *rigged) set(at map[string]error, step string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at[step] = err
}

func (r *rigged) step(name string, take func() error) error {
	r.mu.Lock()
	before, after := r.before[name], r.after[name]
	r.mu.Unlock()
	if before != nil {
		return before
	}
	return errors.Join(take(), after)
}

func (r *rigged) Begin(ctx context.Context, c idempotency.Claim) (b idempotency.BeginResult, err error) {
	c.Running = nil // as in another process
	err = r.step("begin", func() (err error) { b, err = r.Store.Begin(ctx, c); return err })
	return b, err
}

func (r *rigged) Complete(ctx context.Context, l idempotency.Lease, outcome []byte, retention time.Duration) error {
	return r.step("complete", func() error { return r.Store.Complete(ctx, l, outcome, retention) })
}

func (r *rigged) Extend(ctx context.Context, l idempotency.Lease, d time.Duration) error {
	return r.step("extend", func() error { return r.Store.Extend(ctx, l, d) })
}

func (r *rigged) Release(ctx context.Context, l idempotency.Lease, effect bool, retention time.Duration) error {
	return r.step("release", func() error { return r.Store.Release(ctx, l, effect, retention) })
}

func TestHandlerDoesNotRunWithoutAStore(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err    error
		code   codes.Code
		reason string
	}{
		"unreachable": {errStore, codes.Unavailable, interceptors.ReasonStoreUnavailable},
		"full":        {idempotency.ErrFull, codes.ResourceExhausted, interceptors.ReasonStoreFull},
		"corrupt":     {idempotency.ErrCorrupt, codes.Internal, interceptors.ReasonRecordCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, store := &bank{}, rig()
			store.set(store.before, "begin", tc.err)
			c := b.open(t, store).customer()
			_, err := c.pay(t.Context(), "k", rent())
			wantError(t, err, tc.code, tc.reason)
			if strings.Contains(err.Error(), errStore.Error()) {
				t.Errorf("the caller is told of the store: %v", err)
			}
			if n := b.calls.Load(); n != 0 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// A claim whose answer was lost is asked for again by the same owner.
func TestClaimWithoutAnAnswerIsRepeated(t *testing.T) {
	t.Parallel()
	b, store := &bank{}, rig()
	store.set(store.after, "begin", errStore)
	asked := 0
	c := b.open(t, hookedStore{store, func() {
		if asked++; asked == 2 {
			store.set(store.after, "begin", nil)
		}
	}}).customer()
	if got, err := c.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
		t.Errorf("got %q, %v", got, err)
	}
}

// hookedStore calls a function before each Begin.
type hookedStore struct {
	idempotency.Store
	hook func()
}

func (h hookedStore) Begin(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	h.hook()
	return h.Store.Begin(ctx, c)
}

// When nobody can say whether an outcome was stored, its caller is told so, and
// the key stays locked until the lease has run out.
func TestOutcomeWhoseFateIsUnknownKeepsTheLock(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]bool{"the step was not taken": false, "the answer was lost": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b, store := &bank{}, rig()
				at := store.before
				if lost {
					at = store.after
				}
				store.set(at, "complete", errStore)
				c := b.open(t, store).customer()
				began := time.Now()
				_, err := c.pay(t.Context(), "k", rent())
				wantError(t, err, codes.Unavailable, interceptors.ReasonOutcomeUnknown)
				if took := time.Since(began); took > idempotency.DefaultLease || took < idempotency.DefaultLease*9/10 {
					t.Errorf("tried for %v", took)
				}
				store.set(at, "complete", nil)
				got, err := c.pay(t.Context(), "k", rent())
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
		store := rig()
		b := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			store.set(store.before, "extend", errStore)
			time.Sleep(5 * time.Second)
			store.set(store.before, "extend", nil)
			time.Sleep(time.Minute)
			return nil
		}}
		c := b.open(t, store).customer()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if got, err := c.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of rent" {
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
func TestZombieAnswersWithItsSuccessorsOutcome(t *testing.T) {
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
				store := rig()
				store.Store = shared
				store.set(store.before, "extend", errStore)
				zombie := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
					time.AfterFunc(tc.back, func() { store.set(store.before, "extend", nil) })
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
				successor := &bank{pay: func(ctx context.Context, _ int64, req *testv1.PayRequest) error {
					takenOver = idempotency.TakenOver(ctx)
					time.Sleep(10 * time.Second)
					req.Account = "successor's"
					return nil
				}}
				first, second := zombie.open(t, store).customer(), successor.open(t, shared).customer()
				var wg sync.WaitGroup
				wg.Go(func() {
					var header metadata.MD
					got, err := first.pay(t.Context(), "k", rent(), grpc.Header(&header))
					if err != nil || got != "payment 1 of successor's" || len(header["x-zombie"]) != 0 || len(header["idempotency-replayed"]) != 1 {
						t.Errorf("the zombie's caller got %q, %v, header %v", got, err, header)
					}
				})
				synctest.Wait()
				if got, err := second.pay(t.Context(), "k", rent()); err != nil || got != "payment 1 of successor's" {
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
func TestZombieWithoutASuccessorsOutcomeSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		shared := idempotency.NewMemory()
		store := rig()
		store.Store = shared
		store.set(store.before, "extend", errStore)
		zombie := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error {
			time.Sleep(time.Minute)
			return nil
		}}
		successor := &bank{pay: func(context.Context, int64, *testv1.PayRequest) error { return errUnavailable }}
		first, second := zombie.open(t, store).customer(), successor.open(t, shared).customer()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := first.pay(t.Context(), "k", rent())
			wantError(t, err, codes.Aborted, interceptors.ReasonLeaseLost)
		})
		time.Sleep(20 * time.Second)
		if _, err := second.pay(t.Context(), "k", rent()); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
		wg.Wait()
		if n := zombie.calls.Load(); n != 1 {
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
		b := &bank{}
		store := idempotency.NewMemory()
		slow := hookedStore{store, func() { time.Sleep(time.Second) }}
		c := b.open(t, slow).customer()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := c.pay(ctx, "k", rent()); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)
		if n := b.calls.Load(); n != 0 || store.Stats().Records != 0 {
			t.Errorf("%d calls, %d records", n, store.Stats().Records)
		}
	})
}

// A claim that was made while its caller went away is given up, and the handler
// does not run.
func TestClaimOfACallerThatHasGoneIsReleased(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &bank{}
		store := idempotency.NewMemory()
		c := b.open(t, lateStore{store}).customer()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		if _, err := c.pay(ctx, "k", rent()); status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)
		if n := b.calls.Load(); n != 0 || store.Stats().Records != 0 {
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
