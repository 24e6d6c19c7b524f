package watch

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

var pace = Pace{Min: 5 * time.Millisecond, Max: 250 * time.Millisecond}

func TestOneGoroutinePollsForAllWaiters(t *testing.T) {
	t.Parallel()
	for _, lasts := range []time.Duration{0, 20 * time.Millisecond, time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			var g Group
			began, looks := time.Now(), 0
			look := func(context.Context) (time.Duration, error) {
				looks++
				if time.Since(began) >= lasts {
					return 0, nil
				}
				return time.Hour, nil
			}
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() {
					if err := g.Wait(t.Context(), idempotency.ID{1}, pace, look); err != nil {
						t.Error(err)
					}
					if late := time.Since(began) - lasts; late > 10*time.Millisecond+lasts/7 {
						t.Errorf("%v late for %v", late, lasts)
					}
				})
			}
			wg.Wait()
			if most := 1 + 60 + int(lasts/(250*time.Millisecond)); looks > most && lasts > 0 {
				t.Errorf("looked %d times in %v", looks, lasts)
			}
			if n := len(g.watches); n != 0 {
				t.Errorf("%d are still watched", n)
			}
		})
	}
}

func TestWaitEndsAtAWakeAndAtTheEndsOfItsLeaseAndContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		id := idempotency.ID{1}
		pending := true
		look := func(context.Context) (time.Duration, error) {
			if pending {
				return time.Hour, nil
			}
			return 0, nil
		}
		slow := Pace{Min: time.Minute, Max: time.Minute}
		done := make(chan error, 1)
		go func() { done <- g.Wait(t.Context(), id, slow, look) }()
		synctest.Wait()
		began := time.Now()
		pending = false
		g.Wake(id)
		g.Wake(id)
		if err := <-done; err != nil || time.Since(began) > 0 {
			t.Errorf("woken after %v: %v", time.Since(began), err)
		}
		left := 3 * time.Second
		if err := g.Wait(t.Context(), id, slow, func(context.Context) (time.Duration, error) { return left - time.Since(began), nil }); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > left+10*time.Millisecond {
			t.Errorf("the end of the lease was seen after %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Wait(ctx, id, slow, func(context.Context) (time.Duration, error) { return time.Hour, nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		failed := errors.New("the store is down")
		if err := g.Wait(t.Context(), id, slow, func(context.Context) (time.Duration, error) { return 0, failed }); !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		synctest.Wait() // and nothing is left running
	})
}
