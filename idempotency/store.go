package idempotency

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A Store keeps the records of writes. A record is absent, pending, released or done:
//
//	Begin     absent   -> pending   a new fence, and a lease for the owner
//	          released -> pending   likewise; the owner is told of a possible effect
//	          pending  -> pending   the same owner again: the same fence; or, when the lease
//	                                has run out, a new owner with the next fence, who is
//	                                told of a possible effect
//	Extend    pending  -> pending   the owner's lease is longer
//	Save      pending  -> pending   the owner's checkpoint takes the place of the last
//	Release   pending  -> absent    the owner gives up, and no run can have had an effect
//	          pending  -> released  the owner gives up, and a run may have had an effect
//	Complete  pending  -> done      the outcome is kept until its retention ends
//	(time)    done, released, pending without an owner that extends its lease -> absent
//
// Fences of an ID only grow, as long as the store exists. Extend, Save, Release and Complete
// are the owner's alone: they name the owner and the fence that Begin gave it, and are refused
// with [ErrLeaseLost] once another has taken over. An owner whose lease has run out while
// nobody took over may extend or complete it all the same. So at most one outcome is kept
// for an ID, and whoever asks within the retention gets that one.
//
// A store never forgets a possible effect: once a lease has run out, or a run was released
// with an effect, [Begun.TakenOver] is true for every later owner, until an outcome is
// stored or the retention has passed. A pending record is therefore kept for
// [Claim.KeepFor] after its lease has run out. The last checkpoint is kept for as long, and
// every later owner gets it in [Begun.Checkpoint].
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

	// Look tells what Begin would, and claims nothing: its answer is never Run, but
	// Absent where the write could be claimed. Only the claim's ID and fingerprint count.
	Look(ctx context.Context, claim Claim) (Begun, error)

	// Complete ends a write with its outcome, which is kept for the retention and must
	// not be changed any more.
	Complete(ctx context.Context, lease Lease, outcome []byte, retention time.Duration) error

	// Extend makes the lease last for d from now, and never less than it did.
	Extend(ctx context.Context, lease Lease, d time.Duration) error

	// Save stores a checkpoint, which says what the owner's run has done so far, in the place
	// of the last. It must not be changed any more.
	Save(ctx context.Context, lease Lease, checkpoint []byte) error

	// Release gives up a write: the next to ask may run it. If effect is true, the run may
	// have had an effect. Then, and if an earlier run may have had one, that is remembered
	// for at least the retention. It is no error if there is no record or if it is
	// released, but [ErrLeaseLost] if there is one that is another's, or done.
	Release(ctx context.Context, lease Lease, effect bool, retention time.Duration) error

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

	// Tenant is whose share of a bounded store the record takes. Empty is nobody's: the
	// record may take whatever room there is.
	Tenant string

	// Method and KeyHash are the full method and the key's [Key.Hash], by which an operator
	// finds the record; see [Inspector].
	Method, KeyHash string

	// Lease is how long the write is the owner's unless it extends the lease.
	Lease time.Duration

	// Retention is for how long the outcome will be kept, as far as is known; what counts
	// is that of Complete. See [Claim.KeepFor].
	Retention time.Duration

	// Running, if it is not nil, tells whether the handler runs in this process. A store
	// whose records are the process's alone does not take over such a write.
	Running Running

	// Wait bounds how long [Transactor.Transact] waits for another that runs the
	// write, beside its context. Zero is no bound. Begin does not wait.
	Wait time.Duration
}

// KeepFor returns how long a store keeps a pending record after its lease has run out: the
// retention, so that the possible effect is not forgotten, and at least an hour, in which
// the owner may still complete it.
func (c *Claim) KeepFor() time.Duration { return max(c.Retention, time.Hour) }

// Running tells whether something runs, such as an [atomic.Bool] does.
type Running interface{ Load() bool }

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
	// Absent, from Look alone: nobody runs it, and no outcome is stored.
	Absent
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
	case Absent:
		return "absent"
	default:
		return "none"
	}
}

// Begun is what Begin tells.
type Begun struct {
	State State

	// Fence is the owner's, if it is to run the write.
	Fence uint64

	// TakenOver is whether an earlier run may have had an effect that nobody knows of.
	TakenOver bool

	// Checkpoint is the last that Save has stored, if the owner is to run the write; nil if
	// there is none. It must not be changed.
	Checkpoint []byte

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
	// ErrFull is returned for a new ID by a store that has no room for it. A store that
	// knows when it will have room returns a [FullError].
	ErrFull = errors.New("idempotency: the store is full")
	// ErrCorrupt is returned for a record that cannot be read.
	ErrCorrupt = errors.New("idempotency: the record cannot be read")
)

// FullError is an [ErrFull] of a store that knows when it will have room.
type FullError struct {
	// Room is the time until the first record may be deleted.
	Room time.Duration
}

// Error says when there will be room.
func (e *FullError) Error() string {
	return fmt.Sprintf("%v: there may be room in %v", ErrFull, e.Room.Round(time.Second))
}

// Is reports whether target is [ErrFull].
func (e *FullError) Is(target error) bool { return target == ErrFull }
