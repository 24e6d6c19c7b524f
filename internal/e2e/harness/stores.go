package harness

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// FaultyStore is a store whose steps can be made to fail, before or after they are taken.
type FaultyStore struct {
	idempotency.Store

	mu            sync.Mutex
	Before, After map[string]error
}

// NewFaultyStore returns a memory store whose steps do not fail yet.
func NewFaultyStore() *FaultyStore {
	return &FaultyStore{Store: idempotency.NewMemory(), Before: map[string]error{}, After: map[string]error{}}
}

// ErrStore is the failure of a store.
var ErrStore = errors.New("the store does not answer")

// Set makes a step fail from now on: "begin", "complete", "extend" or "release". The map at is Before
// or After.
func (r *FaultyStore) Set(at map[string]error, step string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at[step] = err
}

func (r *FaultyStore) step(name string, take func() error) error {
	r.mu.Lock()
	before, after := r.Before[name], r.After[name]
	r.mu.Unlock()
	if before != nil {
		return before
	}
	return errors.Join(take(), after)
}

// Begin implements [idempotency.Store], as a store that another process shares.
func (r *FaultyStore) Begin(ctx context.Context, c idempotency.Claim) (b idempotency.BeginResult, err error) {
	c.Running = nil // as in another process
	err = r.step("begin", func() (err error) { b, err = r.Store.Begin(ctx, c); return err })
	return b, err
}

// Complete implements [idempotency.Store].
func (r *FaultyStore) Complete(ctx context.Context, l idempotency.Lease, outcome []byte, retention time.Duration) error {
	return r.step("complete", func() error { return r.Store.Complete(ctx, l, outcome, retention) })
}

// Extend implements [idempotency.Store].
func (r *FaultyStore) Extend(ctx context.Context, l idempotency.Lease, d time.Duration) error {
	return r.step("extend", func() error { return r.Store.Extend(ctx, l, d) })
}

// Release implements [idempotency.Store].
func (r *FaultyStore) Release(ctx context.Context, l idempotency.Lease, effect bool, retention time.Duration) error {
	return r.step("release", func() error { return r.Store.Release(ctx, l, effect, retention) })
}

// HookedStore calls a function before each Begin.
type HookedStore struct {
	idempotency.Store
	Hook func()
}

// Begin implements [idempotency.Store].
func (h HookedStore) Begin(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	h.Hook()
	return h.Store.Begin(ctx, c)
}

// TakeoverStore is a store with transactions in which every key was claimed before, under a lease that
// has expired.
type TakeoverStore struct{ *idempotency.Memory }

// Transactional implements [idempotency.Transactor].
func (TakeoverStore) Transactional() bool { return true }

// Transact implements [idempotency.Transactor].
func (TakeoverStore) Transact(ctx context.Context, _ idempotency.Claim, run func(context.Context, idempotency.BeginResult) idempotency.Verdict) (idempotency.BeginResult, error) {
	run(ctx, idempotency.BeginResult{State: idempotency.Run, TakenOver: true})
	return idempotency.BeginResult{State: idempotency.Run, TakenOver: true}, nil
}

// Observe implements [idempotency.Transactor].
func (TakeoverStore) Observe(ctx context.Context, run func(context.Context) bool) error {
	run(ctx)
	return nil
}

// ClaimRecorder is a store that keeps the last claim.
type ClaimRecorder struct {
	idempotency.Store
	Last idempotency.Claim
}

// Kind returns the kind of store that metrics name.
func (*ClaimRecorder) Kind() string { return "memory" }

// Begin implements [idempotency.Store], as a store that another process shares.
func (s *ClaimRecorder) Begin(ctx context.Context, c idempotency.Claim) (idempotency.BeginResult, error) {
	c.Running = nil // as in another process
	s.Last = c
	return s.Store.Begin(ctx, c)
}
