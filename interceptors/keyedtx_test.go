package interceptors_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/hopbound/hopbound/idempotency"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

// takeover is a store with transactions whose every write was claimed under a
// lease that has run out.
type takeover struct{ *idempotency.Memory }

func (takeover) Transactional() bool { return true }

func (takeover) Transact(ctx context.Context, claim idempotency.Claim, run func(context.Context) idempotency.Verdict) (idempotency.Begun, error) {
	run(idempotency.WithRunning(ctx, claim.ID, "", true))
	return idempotency.Begun{State: idempotency.Run, TakenOver: true}, nil
}

func (takeover) Observe(ctx context.Context, run func(context.Context) bool) error {
	run(ctx)
	return nil
}

// A handler is told by a transaction, too, that another may have had its effect,
// and its calls have the keys that they had there.
func TestTransactionTellsThatItTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			takenOver bool
			child     idempotency.Key
		)
		b := &bank{pay: func(ctx context.Context, _ int64, _ *testv1.PayRequest) error {
			takenOver = idempotency.TakenOver(ctx)
			child, _ = idempotency.ForCall(ctx, "/shop.Ledger/Write", true)
			return nil
		}}
		var keys []idempotency.Key
		for _, store := range []idempotency.Store{takeover{idempotency.NewMemory()}, idempotency.NewMemory()} {
			if _, err := b.open(t, store).customer().pay(t.Context(), "k", rent()); err != nil {
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
