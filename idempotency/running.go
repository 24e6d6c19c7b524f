package idempotency

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"sync"
)

// HandlerRun describes the run of a handler under a key. It is for authors of other transports.
type HandlerRun struct {
	ID  ID
	Key Key

	// Secret is the secret of child keys; see [ChildSecret]. Nil is none.
	Secret []byte

	// TakenOver, Fence and Checkpoint are those of the claim; see [BeginResult]. Fence is 0 if the
	// run has no lease.
	TakenOver  bool
	Fence      uint64
	Checkpoint []byte

	// Save stores a checkpoint. It is nil if the run cannot be taken over.
	Save func(ctx context.Context, checkpoint []byte) error
}

// running is the write that a handler runs. It is safe for concurrent use.
type running struct {
	HandlerRun

	saving sync.Mutex // held while a checkpoint is stored, so that they are stored in order

	mu    sync.Mutex
	calls map[string]int // how many calls were made, by method
	last  []byte         // the last checkpoint
}

type (
	runningContext struct{}
	stepContext    struct{}
)

func runningFrom(ctx context.Context) *running {
	r, _ := ctx.Value(runningContext{}).(*running)
	if r == nil || r.Key == "" {
		return nil
	}
	return r
}

// WithRun returns the context of a handler that runs a write under a key. It is for authors of other
// transports. The handler's own calls get their child keys from the context. A run without a key hides that of ctx.
func WithRun(ctx context.Context, run HandlerRun) context.Context {
	return context.WithValue(ctx, runningContext{}, &running{HandlerRun: run, last: run.Checkpoint})
}

// TakenOver reports whether an earlier run of a handler's write may have had its effect, or part of
// it: that run failed without [NoEffect], panicked, lost its lease, or its server died, and no outcome
// was stored. ctx is the context of the handler. If TakenOver is true, a handler that can find out
// whether the effect has happened should do so.
func TakenOver(ctx context.Context) bool {
	r := runningFrom(ctx)
	return r != nil && r.TakenOver
}

// Fence returns the fence of the run of the handler with context ctx. It returns false if the run has
// no lease: without a key, without a store, or in a transaction. Each run of a write has a higher
// fence than the runs before it. A handler that writes to another system can store the fence with its
// data there, and let that system refuse writes with a lower fence than the stored one. Then a run
// that was taken over cannot overwrite what its successor has written. Fences of [Memory] restart with
// the process.
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

// Checkpoint records what the run of the handler with context ctx has done so far, such as the
// reference of a charge. It replaces the last checkpoint. If another run follows, because this one
// fails or its server dies, that run gets the checkpoint from [LastCheckpoint]. An outcome replaces
// the checkpoint.
//
// Checkpoint is safe for concurrent use, and cancelling ctx does not interrupt it. In a run without a
// key or a store, which cannot be taken over, Checkpoint does nothing and returns nil. It returns
// [ErrLeaseLost] if another run has taken over, [ErrNoCheckpoints] in a transaction, and an error if
// the checkpoint is larger than [MaxOutcome] allows. If the store does not answer, Checkpoint returns
// the store's error, and the checkpoint may have been stored.
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

// LastCheckpoint returns the last checkpoint of the write that the handler with context ctx runs, or
// nil if there is none. Until this run stores a checkpoint, the last checkpoint is that of an earlier
// run. The caller must not change the result. LastCheckpoint is safe for concurrent use.
func LastCheckpoint(ctx context.Context) []byte {
	r := runningFrom(ctx)
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// WithStep names a step of the handler with context ctx. A downstream write that the handler makes
// with the returned context gets a child key made of the handler's own key, the method that it calls
// and the name of the step.
//
// Without a step, the ordinal of the call among the handler's calls to that method is used instead of
// the name. The ordinal is the same in each run if the handler always makes the same calls, one after
// another, in the same order. Concurrent or conditional calls need names.
//
// Two calls to one method in the same step have the same key, and are therefore one write. So to retry
// a failed call, make it again in the same step.
func WithStep(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, stepContext{}, name)
}

// ForCall returns the key of an outgoing call: the key of [WithKey] or, for a write of a handler that
// runs under a key, a child key. It returns false if there is neither. If the child key depends on the
// ordinal of the call, ForCall counts the call. It is for authors of other transports.
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

// count returns the ordinal of a call among the calls to its method, from 1.
func (r *running) count(fullMethod string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls == nil {
		r.calls = map[string]int{}
	}
	r.calls[fullMethod]++
	return r.calls[fullMethod]
}

// IsForwarded reports whether keys, the keys in a call's metadata, consist of the one key under which
// the calling handler runs. The handler has then forwarded its incoming metadata. IsForwarded is for
// authors of other transports.
func IsForwarded(ctx context.Context, keys []string) bool {
	r := runningFrom(ctx)
	if r == nil || len(keys) != 1 {
		return false
	}
	key, err := ParseKey(keys[0]) // it may be in double quotes
	return err == nil && key == r.Key
}
