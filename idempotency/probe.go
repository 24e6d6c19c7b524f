package idempotency

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"
)

// Probe begins, extends, saves, completes, finds and deletes a record of its own, and returns the
// errors of the steps that fail. It is for authors of stores: a store's Check calls it, so that a
// process finds out at its start if it may not write or delete records.
func Probe(ctx context.Context, store Inspector) error {
	claim := Claim{
		ID: NewID("", "probe", NewKey()), Owner: rand.Text(), Lease: time.Minute, Retention: time.Minute,
		Method: "/hopbound.Probe/Probe",
	}
	begun, err := store.Begin(ctx, claim)
	if err == nil && begun.State != Run {
		err = fmt.Errorf("the state of a new write is %v, want run", begun.State)
	}
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	lease := Lease{ID: claim.ID, Owner: claim.Owner, Fence: begun.Fence}
	for _, step := range []struct {
		name string
		take func() error
	}{
		{"extend", func() error { return store.Extend(ctx, lease, time.Hour) }}, // longer than the lease, so that the store writes
		{"save", func() error { return store.Save(ctx, lease, []byte("checkpoint")) }},
		{"complete", func() error { return store.Complete(ctx, lease, []byte("outcome"), time.Minute) }},
	} {
		if err := step.take(); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", step.name, err), forgetProbe(ctx, store, claim.ID))
		}
	}
	return forgetProbe(ctx, store, claim.ID)
}

func forgetProbe(ctx context.Context, store Inspector, id ID) error {
	r, err := store.Find(ctx, id)
	switch {
	case err != nil:
		return fmt.Errorf("find: %w", err)
	case r == nil:
		return errors.New("find: the record that was written is missing")
	}
	if err := store.Forget(ctx, r); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}
