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
// Fences of an ID only grow, as long as the store exists. Only the owner may call Extend,
// Save, Release and Complete: they name the owner and the fence that Begin returned, and fail
// with [ErrLeaseLost] once another owner has taken over. An owner whose lease has expired may
// still extend or complete it if nobody has taken over. So at most one outcome is stored for
// an ID, and every claim within the retention gets it.
//
// A store never forgets a possible effect: once a lease has run out, or a run was released
// with an effect, [BeginResult.TakenOver] is true for every later owner, until an outcome is
// stored or the retention has passed. A pending record is therefore kept for
// [Claim.KeepFor] after its lease has run out. The last checkpoint is kept for as long, and
// every later owner gets it in [BeginResult.Checkpoint].
//
// The store's clock measures leases and retentions, not its callers' clocks. They
// may last some milliseconds longer than asked for, and never less. Each method is
// safe for concurrent use, returns when its context ends, and takes effect as a
// whole or not at all. After an error that is not of this package, it is unknown
// whether the step took effect. Repeating it is safe, because an owner that
// repeats a step gets the same answer.
type Store interface {
	// Begin claims a write, or returns its state.
	Begin(ctx context.Context, claim Claim) (BeginResult, error)

	// Look returns what Begin would return, and claims nothing: instead of Run it returns
	// Absent. Only the claim's ID and fingerprint count.
	Look(ctx context.Context, claim Claim) (BeginResult, error)

	// Complete stores the outcome of a write for the retention. The caller must not
	// change the bytes afterwards.
	Complete(ctx context.Context, lease Lease, outcome []byte, retention time.Duration) error

	// Extend makes the lease last for d from now, and never less than it did.
	Extend(ctx context.Context, lease Lease, d time.Duration) error

	// Save replaces the checkpoint, which says what the owner's run has done so far. The
	// caller must not change the bytes afterwards.
	Save(ctx context.Context, lease Lease, checkpoint []byte) error

	// Release ends a run without an outcome: the next claim may run the write. If effect is
	// true, the run may have had an effect. A possible effect of this run or an earlier one is
	// remembered for at least the retention. Release returns nil if there is no record or it is
	// released, and [ErrLeaseLost] if it is another owner's, or done.
	Release(ctx context.Context, lease Lease, effect bool, retention time.Duration) error

	// Wait returns nil when the record may no longer be pending, at the latest when
	// its lease has expired, or the error of ctx when that ends. It may return early:
	// the caller then calls Begin again.
	Wait(ctx context.Context, id ID) error
}

// ID names a write in a store: it is made of the tenant, the method and the key
// by [NewID], so that the keys of different tenants and methods never meet.
type ID [32]byte

// Claim is a request to run a write.
type Claim struct {
	ID ID

	// Owner is a random name of the caller, the same each time it repeats the
	// claim. It is text, without NUL.
	Owner string

	// Fingerprint tells whether two requests with one key are the same.
	Fingerprint Fingerprint

	// Tenant is the tenant in whose share of a bounded store the record counts. A record
	// without a tenant may take whatever room there is.
	Tenant string

	// Method and KeyHash are the full method and the key's [Key.Hash], by which an operator
	// finds the record; see [Inspector].
	Method, KeyHash string

	// Lease is how long the write is the owner's unless it extends the lease.
	Lease time.Duration

	// Retention is the expected retention of the outcome. The one that Complete gets
	// replaces it. See [Claim.KeepFor].
	Retention time.Duration

	// Running, if it is not nil, reports whether the handler runs in this process. [Memory]
	// does not take over such a write.
	Running Running

	// Wait bounds how long [Transactor.Transact] waits for another run of the write,
	// in addition to its context. Zero is no bound. Begin does not wait.
	Wait time.Duration
}

// KeepFor returns how long a store keeps a pending record after its lease has run out: the
// retention, so that the possible effect is not forgotten, and at least an hour, in which
// the owner may still complete it.
func (c *Claim) KeepFor() time.Duration { return max(c.Retention, time.Hour) }

// Running reports whether a handler runs. An [atomic.Bool] is one.
type Running interface{ Load() bool }

// Lease identifies the claim of a write. Fences of an ID only grow.
type Lease struct {
	ID    ID
	Owner string
	Fence uint64
}

// State is what a store knows of a write.
type State int

// The states that Begin returns.
const (
	// Run: the caller runs the write, with the fence in BeginResult.
	Run State = iota + 1
	// Join: another owner runs it. Wait, and call Begin again.
	Join
	// Replay: it is done, with the outcome in BeginResult.
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

// BeginResult is the result of Begin.
type BeginResult struct {
	State State

	// Fence is the fence of the run, if State is Run.
	Fence uint64

	// TakenOver is whether an earlier run without an outcome may have had an effect.
	TakenOver bool

	// Checkpoint is the last that Save has stored, if State is Run and there is one. The
	// caller must not change it.
	Checkpoint []byte

	// Waited is whether [Transactor.Transact] has waited for another run.
	Waited bool

	// Outcome is set if State is Replay. The caller must not change it.
	Outcome []byte
}

// Errors of stores, beside their own.
var (
	// ErrLeaseLost is returned to an owner whose write another owner has taken over,
	// or whose write is done.
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
