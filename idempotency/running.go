package idempotency

import (
	"context"
	"strconv"
	"sync"
)

// running is the write that a handler runs. The handler's calls may use it at
// the same time.
type running struct {
	id        ID
	key       Key
	takenOver bool

	mu    sync.Mutex
	calls map[string]int // how many have been made to a method
}

type (
	runningContext struct{}
	stepContext    struct{}
)

func runningFrom(ctx context.Context) *running {
	r, _ := ctx.Value(runningContext{}).(*running)
	return r
}

// WithRunning returns the context of a handler that runs a write under a key. It
// is for servers; the handler's own calls get their keys from it.
func WithRunning(ctx context.Context, id ID, key Key, takenOver bool) context.Context {
	return context.WithValue(ctx, runningContext{}, &running{id: id, key: key, takenOver: takenOver})
}

// TakenOver reports whether an earlier run of the write that the handler with context ctx
// runs may have had its effect, or part of it: the run failed without [NoEffect] or
// panicked, or its server died or lost its lease, and no outcome was stored. A handler
// whose effects can be looked up looks them up then.
func TakenOver(ctx context.Context) bool {
	r := runningFrom(ctx)
	return r != nil && r.takenOver
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
// write: a handler that repeats a call that failed wants that.
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
		return r.id.Child(r.key, fullMethod, "step "+step), true
	}
	return r.id.Child(r.key, fullMethod, "call "+strconv.Itoa(r.count(fullMethod))), true
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

// IsForwarded reports whether the keys in a call's metadata are that of the write
// which the handler that makes the call runs: it has passed on what came in. It is
// for clients.
func IsForwarded(ctx context.Context, keys []string) bool {
	if len(keys) != 1 {
		return false
	}
	r := runningFrom(ctx)
	return r != nil && r.key == Key(keys[0])
}
