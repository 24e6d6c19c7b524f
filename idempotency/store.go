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
//	          released -> pending   likewise, and TakenOver is true
//	          pending  -> pending   for the same owner: the same fence again
//	                                for another owner, once the lease has expired: a higher
//	                                fence, and TakenOver is true
//	Extend    pending  -> pending   the owner's lease lasts longer
//	Save      pending  -> pending   the owner's checkpoint replaces the last one
//	Release   pending  -> absent    the run has ended, and no run can have had an effect
//	          pending  -> released  the run has ended, and a run may have had an effect
//	Complete  pending  -> done      the outcome is kept until its retention ends
//	(time)    done, released, pending without an owner that extends its lease -> absent
//
// Fences of an ID only grow, as long as the store exists. Only the owner may call Extend,
// Save, Release and Complete: they name the owner and the fence that Begin returned, and fail
// with [ErrLeaseLost] once another owner has taken over. An owner whose lease has expired may
// still extend or complete it if nobody has taken over. Therefore at most one outcome is stored for
// an ID, and every claim within the retention gets it. [StoredRecord] has these rules as code, for
// stores that can use it. Package storetest checks them.
//
// A store never forgets a possible effect: once a lease has expired, or a run was released
// with an effect, [BeginResult.TakenOver] is true for every later owner, until an outcome is
// stored or the retention has passed. A pending record is therefore kept for
// [Claim.KeepFor] after its lease has expired. The last checkpoint is kept for as long, and
// every later owner gets it in [BeginResult.Checkpoint].
//
// The store's clock, not those of its callers, measures leases and retentions. A lease or a retention
// may last some milliseconds longer than asked for, but never less. Each method is safe for
// concurrent use, returns when its context ends, and takes effect as a whole or not at all. After an
// error that this package does not define, it is unknown whether the step took effect. Repeating the
// step is safe, because an owner that repeats a step gets the same answer.
type Store interface {
	// Begin claims a write, or returns its state. It returns an error if the claim has no owner or
	// no positive lease, and one that wraps [ErrFull] if the store has no room.
	Begin(ctx context.Context, claim Claim) (BeginResult, error)

	// Look returns the state of a write without a claim. It returns Absent if the write can be
	// claimed, and Join while another owner runs it. It uses only the claim's ID and fingerprint.
	Look(ctx context.Context, claim Claim) (BeginResult, error)

	// Complete stores the outcome of a write for the retention. The caller must not
	// change the bytes afterwards.
	Complete(ctx context.Context, lease Lease, outcome []byte, retention time.Duration) error

	// Extend makes the lease last for d from now. It never makes the lease shorter.
	Extend(ctx context.Context, lease Lease, d time.Duration) error

	// Save replaces the checkpoint of the owner's run. The caller must not change the bytes
	// afterwards.
	Save(ctx context.Context, lease Lease, checkpoint []byte) error

	// Release ends a run without an outcome: the next claim may run the write. If effect is
	// true, the run may have had an effect. A possible effect of this run or an earlier one is
	// remembered for at least the retention. Release returns nil if there is no record or the record
	// is released, and [ErrLeaseLost] if the record has another owner or is done.
	Release(ctx context.Context, lease Lease, effect bool, retention time.Duration) error

	// Wait returns nil when the record may no longer be pending, at the latest when its lease has
	// expired, or the error of ctx when ctx ends. Wait may return early, so its caller calls Begin
	// again in any case.
	Wait(ctx context.Context, id ID) error
}

// ID names a write in a store. [NewID] makes it of the tenant, the method and the key, so that equal
// keys of different tenants or methods are different writes.
type ID [32]byte

// Claim is a request to run a write.
type Claim struct {
	ID ID

	// Owner is a random name of the caller, which must not be empty. It stays the same if the caller
	// repeats the claim. It is text without NUL bytes.
	Owner string

	// Fingerprint is that of the request. The zero value is not compared.
	Fingerprint Fingerprint

	// Tenant is the tenant in whose share of a bounded store the record counts. Records without a
	// tenant are limited only by the bounds of the whole store.
	Tenant string

	// Method and KeyHash are the full method and the [Key.Hash] of the key. An operator finds the
	// record by them; see [Inspector].
	Method, KeyHash string

	// Lease is how long the claim lasts unless the owner extends it. It must be positive.
	Lease time.Duration

	// Retention is the expected retention of the outcome; see [Claim.KeepFor]. The retention that is
	// passed to Complete replaces it.
	Retention time.Duration

	// Running reports whether the handler runs in this process. [Memory] does not take over a write
	// while its handler runs. Nil is for a caller that does not know.
	Running Running

	// Wait bounds how long [Transactor.Transact] waits for another run of the write, in addition to
	// its context. Zero is no bound. Begin does not wait.
	Wait time.Duration
}

// KeepFor returns how long a store keeps a pending record after its lease has expired: the retention,
// so that the possible effect is not forgotten, but at least an hour, so that the owner may still
// complete the record. KeepFor is for authors of stores.
func (c *Claim) KeepFor() time.Duration { return max(c.Retention, time.Hour) }

// Running reports whether a handler runs. [atomic.Bool] implements it.
type Running interface{ Load() bool }

// Lease identifies the claim of a write: its owner, and the fence that [Store.Begin] returned.
type Lease struct {
	ID    ID
	Owner string
	Fence uint64
}

// State is the state of a write for the caller of [Store.Begin] or [Store.Look]. The zero value is no
// state.
type State int

// The states of a write.
const (
	// Run means that the caller now runs the write, with the fence in BeginResult. Look does not
	// return it.
	Run State = iota + 1
	// Join means that another owner runs the write. Wait, and call Begin again.
	Join
	// Replay means that the write is done. The outcome is in BeginResult.
	Replay
	// Reused means that the key was used for another request.
	Reused
	// Absent means that nobody runs the write, and no outcome is stored. Begin does not return it.
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

// BeginResult is the result of [Store.Begin] and [Store.Look].
type BeginResult struct {
	State State

	// Fence is the fence of the run, if State is Run.
	Fence uint64

	// TakenOver is whether an earlier run without an outcome may have had an effect.
	TakenOver bool

	// Checkpoint is the last checkpoint that was saved, if State is Run. It is empty if there is
	// none. The caller must not change it.
	Checkpoint []byte

	// Waited is whether [Transactor.Transact] has waited for another run.
	Waited bool

	// Outcome is the outcome, if State is Replay. The caller must not change it.
	Outcome []byte
}

// Errors that all stores return. A store may return other errors of its own.
var (
	// ErrLeaseLost is returned to a caller that does not own the record, for example because another
	// owner has taken over, and for a step that a done record does not allow.
	ErrLeaseLost = errors.New("idempotency: the lease is lost")
	// ErrFull is returned by a store that has no room for a new record. A store that knows when it
	// will have room returns a [FullError].
	ErrFull = errors.New("idempotency: the store is full")
	// ErrCorrupt is returned for a record that cannot be read.
	ErrCorrupt = errors.New("idempotency: the record cannot be read")
)

// FullError is the error of a store that is full and knows when it may have room. [errors.Is] reports
// that it is [ErrFull].
type FullError struct {
	// Room is the time until the first record can be deleted.
	Room time.Duration
}

// Error returns the text of the error, with the time until there may be room.
func (e *FullError) Error() string {
	return fmt.Sprintf("%v: there may be room in %v", ErrFull, e.Room.Round(time.Second))
}

// Is reports whether target is [ErrFull].
func (e *FullError) Is(target error) bool { return target == ErrFull }
