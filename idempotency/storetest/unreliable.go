package storetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

var errCut = errors.New("the connection was cut")

// unreliable is a store whose connection is sometimes cut: before a step, so that the step is not
// taken, or after a step, so that its answer is lost.
type unreliable struct{ idempotency.Store }

func (unreliable) cut(step func() error) error {
	switch rand.IntN(25) { //nolint:gosec // not secret
	case 0:
		return errCut
	case 1:
		_ = step()
		return errCut
	default:
		return step()
	}
}

// Begin claims a write.
func (u unreliable) Begin(ctx context.Context, c idempotency.Claim) (b idempotency.BeginResult, err error) {
	err = u.cut(func() (err error) { b, err = u.Store.Begin(ctx, c); return err })
	if err != nil {
		b = idempotency.BeginResult{}
	}
	return b, err
}

// Complete ends a write with its outcome.
func (u unreliable) Complete(ctx context.Context, l idempotency.Lease, outcome []byte, retention time.Duration) error {
	return u.cut(func() error { return u.Store.Complete(ctx, l, outcome, retention) })
}

// Extend makes a lease last longer.
func (u unreliable) Extend(ctx context.Context, l idempotency.Lease, d time.Duration) error {
	return u.cut(func() error { return u.Store.Extend(ctx, l, d) })
}

// Save stores a checkpoint.
func (u unreliable) Save(ctx context.Context, l idempotency.Lease, checkpoint []byte) error {
	return u.cut(func() error { return u.Store.Save(ctx, l, checkpoint) })
}

// Release ends a run without an outcome.
func (u unreliable) Release(ctx context.Context, l idempotency.Lease, effect bool, retention time.Duration) error {
	return u.cut(func() error { return u.Store.Release(ctx, l, effect, retention) })
}

// Look returns the state of a write.
func (u unreliable) Look(ctx context.Context, c idempotency.Claim) (b idempotency.BeginResult, err error) {
	err = u.cut(func() (err error) { b, err = u.Store.Look(ctx, c); return err })
	if err != nil {
		b = idempotency.BeginResult{}
	}
	return b, err
}
