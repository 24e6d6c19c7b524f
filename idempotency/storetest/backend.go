package storetest

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// twoStores is a store whose steps go to either of two stores with the same backend.
type twoStores struct {
	idempotency.Store
	other idempotency.Store
}

func (s *twoStores) pick() idempotency.Store {
	if rand.IntN(2) == 0 { //nolint:gosec // not secret
		return s.Store
	}
	return s.other
}

// Begin claims a write.
func (s *twoStores) Begin(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	return s.pick().Begin(ctx, c)
}

// Look returns the state of a write.
func (s *twoStores) Look(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	return s.pick().Look(ctx, c)
}

// Complete ends a write with its outcome.
func (s *twoStores) Complete(ctx context.Context, l idempotency.Lease, outcome []byte, retention time.Duration) error {
	return s.pick().Complete(ctx, l, outcome, retention)
}

// Extend makes a lease last longer.
func (s *twoStores) Extend(ctx context.Context, l idempotency.Lease, d time.Duration) error {
	return s.pick().Extend(ctx, l, d)
}

// Save stores a checkpoint.
func (s *twoStores) Save(ctx context.Context, l idempotency.Lease, checkpoint []byte) error {
	return s.pick().Save(ctx, l, checkpoint)
}

// Release ends a run without an outcome.
func (s *twoStores) Release(ctx context.Context, l idempotency.Lease, effect bool, retention time.Duration) error {
	return s.pick().Release(ctx, l, effect, retention)
}

// checkWake fails the test unless a wait at one store ends when another store completes the write.
func (b *Backend) checkWake(t *testing.T) {
	t.Helper()
	here, there := &scene{T: t, store: b.Open(t), id: newID(t)}, &scene{T: t, store: b.Open(t)}
	there.id = here.id
	claimed, err := here.store.Begin(t.Context(), idempotency.Claim{ID: here.id, Owner: "a", Lease: time.Hour})
	here.ok(err)
	there.want(there.begin("b"), idempotency.Join)
	ended := make(chan struct{})
	defer func() { <-ended }()
	time.AfterFunc(lease/4, func() {
		defer close(ended)
		here.ok(here.complete(idempotency.Lease{ID: here.id, Owner: "a", Fence: claimed.Fence}, outcome))
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		if err := there.store.Wait(ctx, there.id); err != nil {
			t.Fatal(err)
		}
		if known := there.begin("b"); known.State != idempotency.Join {
			there.want(known, idempotency.Replay)
			return
		}
	}
}

// checkDeletion fails the test unless the backend deletes expired records while it is used.
func (b *Backend) checkDeletion(t *testing.T) {
	t.Helper()
	s := &scene{T: t, store: b.Open(t)}
	const made = 200
	write := func(retention time.Duration) {
		s.id = newID(t)
		s.ok(s.store.Complete(t.Context(), s.run("a"), []byte(outcome), retention))
	}
	for range made {
		write(time.Hour)
	}
	before := b.Records(t)
	if before < made {
		t.Errorf("Records returned %d after %d writes", before, made)
	}
	for range made {
		write(retention)
	}
	const tries = 300
	for range tries {
		time.Sleep(beyond)
		for range 6 {
			write(retention)
		}
		if b.Records(t) <= before+made*3/4 {
			return
		}
	}
	t.Errorf("there were %d records, and there are %d long after all others have expired", before, b.Records(t))
}
