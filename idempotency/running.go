package idempotency

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"sync"
)

// HandlerRun describes the run of a handler under a key.
type HandlerRun struct {
	ID  ID
	Key Key

	// Secret is what child keys are made with, beside the key: see [ChildSecret].
	Secret []byte

	// TakenOver, Fence and Checkpoint are those of the claim: [BeginResult].
	TakenOver  bool
	Fence      uint64
	Checkpoint []byte

	// Save stores a checkpoint. Nil is for a run that cannot be taken over.
	Save func(ctx context.Context, checkpoint []byte) error
}

// running is the write that a handler runs. The handler's calls may use it at
// the same time.
type running struct {
	HandlerRun

	saving sync.Mutex // held while a checkpoint is stored, so that the last is the last

	mu    sync.Mutex
	calls map[string]int // how many have been made to a method
	last  []byte         // the checkpoint
}

type (
	runningContext struct{}
	stepContext    struct{}
)

func runningFrom(ctx context.Context) *running {
	r, _ := ctx.Value(runningContext{}).(*running)
	return r
}

// WithRun returns the context of a handler that runs a write under a key. It is for
// servers; the handler's own calls get their keys from it.
func WithRun(ctx context.Context, run HandlerRun) context.Context {
	return context.WithValue(ctx, runningContext{}, &running{HandlerRun: run, last: run.Checkpoint})
}

// TakenOver reports whether an earlier run of the write that the handler with context ctx
// runs may have had its effect, or part of it: the run failed without [NoEffect] or
// panicked, or its server died or lost its lease, and no outcome was stored. A handler
// whose effects can be looked up looks them up then.
func TakenOver(ctx context.Context) bool {
	r := runningFrom(ctx)
	return r != nil && r.TakenOver
}

// Fence returns the fence of the run that the handler with context ctx makes, or false if it
// runs under no lease: without a key, without a store, or in a transaction. Each run of a
// write has a higher fence than those before. A handler that writes to a system of its own
// stores the fence with what it writes, and has the system refuse a write whose fence is
// lower than the stored one. Then a run that was taken over does not overwrite what its
// successor has written. Fences of [Memory] start again with the process.
func Fence(ctx context.Context) (uint64, bool) {
	r := runningFrom(ctx)
	if r == nil || r.Fence == 0 {
		return 0, false
	}
	return r.Fence, true
}

// ErrNoCheckpoints is returned by [Checkpoint] in a transaction: the checkpoint would be
// rolled back together with the run.
var ErrNoCheckpoints = errors.New("idempotency: a run in a transaction has no checkpoints")

// Checkpoint stores what the run of the handler with context ctx has done so far, such as the
// reference of a charge, in the place of the last checkpoint. If another run follows, because
// this one fails or its server dies, that run gets it from [LastCheckpoint]. Once an outcome
// is stored, the checkpoint is gone.
//
// It is safe for concurrent use, and cancelling ctx does not interrupt it. A run
// without a key or a store cannot be taken over: Checkpoint then does nothing and returns
// nil. It returns [ErrLeaseLost] if another run has taken over, [ErrNoCheckpoints] in a
// transaction, an error if the checkpoint is larger than [MaxOutcome] allows, and the
// store's error if the store does not answer; then the checkpoint may have been stored.
func Checkpoint(ctx context.Context, checkpoint []byte) error {
	r := runningFrom(ctx)
	if r == nil || r.Save == nil {
		return nil
	}
	checkpoint = bytes.Clone(checkpoint)
	r.saving.Lock()
	defer r.saving.Unlock()
	if err := r.Save(ctx, checkpoint); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = checkpoint
	return nil
}

// LastCheckpoint returns the last checkpoint of the write that the handler with context ctx
// runs, which is that of an earlier run until this one stores its own. It is nil if there is
// none. It is safe for concurrent use, and must not be changed.
func LastCheckpoint(ctx context.Context) []byte {
	r := runningFrom(ctx)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// WithStep names a step of the handler whose context ctx is. A write that the
// handler makes downstream with the context returned gets a key made of its own
// key, the method it calls and the name of the step.
//
// Without a step, the number of the call among the handler's calls to that
// method takes the place of the name. That is the same each time the handler
// runs if it makes its calls one after another, in the same order. Where it
// makes them at the same time, or not always all of them, they need names.
//
// Two calls to one method in the same step have one key, and are therefore one
// write. Use that to repeat a call that has failed.
func WithStep(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, stepContext{}, name)
}

// ForCall returns the key of an outgoing call: that of [WithKey] or, for a write
// that a handler makes while it runs under a key, a child of it. It is for
// clients, and counts the call.
func ForCall(ctx context.Context, fullMethod string, write bool) (Key, bool) {
	if key, ok := ctx.Value(keyContext{}).(Key); ok {
		return key, true
	}
	r := runningFrom(ctx)
	if r == nil || !write {
		return "", false
	}
	if step, ok := ctx.Value(stepContext{}).(string); ok {
		return r.ID.Child(r.Key, fullMethod, "step "+step, r.Secret), true
	}
	return r.ID.Child(r.Key, fullMethod, "call "+strconv.Itoa(r.count(fullMethod)), r.Secret), true
}

// count returns the number of the call among those to a method, from 1.
func (r *running) count(fullMethod string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls == nil {
		r.calls = map[string]int{}
	}
	r.calls[fullMethod]++
	return r.calls[fullMethod]
}

// IsForwarded reports whether the keys in a call's metadata are just the key under
// which the calling handler runs, because it has forwarded its incoming metadata.
// It is for clients.
func IsForwarded(ctx context.Context, keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	r := runningFrom(ctx)
	return r != nil && r.Key == Key(keys[0])
}
