package idempotency

import (
	"context"
	"errors"
	"time"
)

// A Store keeps the records of writes. A record is absent, pending or done:
//
//	Begin     absent  -> pending   a new fence, and a lease for the owner
//	          pending -> pending   the same owner again: the same fence; or, when the lease
//	                               has run out, a new owner with the next fence
//	Extend    pending -> pending   the owner's lease is longer
//	Release   pending -> absent    the owner gives up; the fence is not forgotten
//	Complete  pending -> done      the outcome is kept until its retention ends
//	(time)    done    -> absent    when the retention has ended
//
// Extend, Release and Complete are the owner's alone: they name the owner and
// the fence that Begin gave it, and are refused with [ErrLeaseLost] once
// another has taken over. An owner whose lease has run out while nobody took
// over may still complete. So at most one outcome is kept for an ID, and
// whoever asks within the retention gets that one.
//
// The time that leases and retentions are measured in is the store's, not its
// callers'. They may last some milliseconds longer than was asked for, and never
// less. Each method is safe for concurrent use, gives up when its context
// ends, and has no effect in part. If its error is neither nil nor one of this
// package, whether it had its effect is not known; repeating it then is safe,
// because an owner that repeats a step gets the same answer.
type Store interface {
	// Begin claims a write, or tells what is known of it.
	Begin(ctx context.Context, claim Claim) (Begun, error)

	// Complete ends a write with its outcome, which is kept for the retention and must
	// not be changed any more.
	Complete(ctx context.Context, lease Lease, outcome []byte, retention time.Duration) error

	// Extend makes the lease last for d from now, and never less than it did.
	Extend(ctx context.Context, lease Lease, d time.Duration) error

	// Release gives up a write that had no effect: the next to ask may run it. It is
	// no error if there is no record, but [ErrLeaseLost] if there is one that is
	// another's, or done.
	Release(ctx context.Context, lease Lease) error

	// Wait returns when the record may have ceased to be pending, at the latest
	// when its lease has run out, or when ctx ends, with its error. It may return
	// early: whoever waits asks Begin again.
	Wait(ctx context.Context, id ID) error
}

// ID names a write in a store: it is made of the tenant, the method and the key
// by [NewID], so that the keys of different tenants and methods never meet.
type ID [32]byte

// Claim is what a caller asks a store for.
type Claim struct {
	ID ID

	// Owner is a random name of whoever asks, the same each time it repeats the
	// question. It is text, without NUL.
	Owner string

	// Fingerprint tells whether two requests with one key are the same.
	Fingerprint Fingerprint

	// Lease is how long the write is the owner's unless it extends the lease.
	Lease time.Duration

	// Retention is for how long the outcome will be kept, as far as is known. Stores
	// may make use of it; what counts is that of Complete.
	Retention time.Duration

	// Wait bounds how long [Transactor.Transact] waits for another that runs the
	// write, beside its context. Zero is no bound. Begin does not wait.
	Wait time.Duration
}

// Lease names who has claimed a write. Fences of an ID only grow.
type Lease struct {
	ID    ID
	Owner string
	Fence uint64
}

// State is what a store knows of a write.
type State int

// The states that Begin tells.
const (
	// Run: the write is the caller's to run, with the fence in Begun.
	Run State = iota + 1
	// Join: somebody runs it. Wait, and ask again.
	Join
	// Replay: it is done, with the outcome in Begun.
	Replay
	// Reused: the key was used for another request.
	Reused
)

// String returns the state's name in lower case.
func (s State) String() string {
	switch s {
	case Run:
		return "run"
	case Join:
		return "join"
	case Replay:
		return "replay"
	case Reused:
		return "reused"
	default:
		return "none"
	}
}

// Begun is what Begin tells.
type Begun struct {
	State State

	// Fence is the owner's, if it is to run the write.
	Fence uint64

	// TakenOver is whether another owner's lease had run out: it may have had an
	// effect that nobody knows of.
	TakenOver bool

	// Waited is whether [Transactor.Transact] has waited for another.
	Waited bool

	// Outcome is that of a write that is done. It must not be changed.
	Outcome []byte
}

// Errors of stores, beside their own.
var (
	// ErrLeaseLost is returned to an owner whose write another has taken over, or
	// that has ended.
	ErrLeaseLost = errors.New("idempotency: the lease is lost")
	// ErrFull is returned for a new ID by a store that has no room for it.
	ErrFull = errors.New("idempotency: the store is full")
	// ErrCorrupt is returned for a record that cannot be read.
	ErrCorrupt = errors.New("idempotency: the record cannot be read")
)
