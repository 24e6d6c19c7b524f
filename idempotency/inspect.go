package idempotency

import (
	"context"
	"iter"
	"time"
)

// An Inspector is a [Store] whose records an operator can look at and remove. It is safe for
// concurrent use while servers use the store.
type Inspector interface {
	Store

	// Find returns the record of an ID, or nil if there is none.
	Find(ctx context.Context, id ID) (*Record, error)

	// Records returns all records, in any order, without outcomes. A record that cannot be
	// read comes with its ID alone and an error that wraps [ErrCorrupt]. Any other error comes
	// without a record, and ends the iteration. A record that is created or changed meanwhile
	// may be missing or come twice.
	Records(ctx context.Context) iter.Seq2[*Record, error]

	// Free releases a pending record as its owner would after a failure: the next call with
	// the key runs the write, and is told of a possible effect. It returns [ErrLeaseLost] if
	// the record has changed since it was found.
	Free(ctx context.Context, r *Record) error

	// Forget deletes a record: the next call with the key runs the write and knows nothing of
	// earlier runs. It returns [ErrLeaseLost] if the record has changed since it was found, or
	// if its lease had run out then and lasts now.
	Forget(ctx context.Context, r *Record) error
}

// RecordState is the state of a record; see [Store].
type RecordState string

// The states of records.
const (
	Pending  RecordState = "pending"
	Released RecordState = "released"
	Done     RecordState = "done"
)

// Record is what a store keeps of a write.
type Record struct {
	ID      ID
	State   RecordState
	Method  string // the full method, as in [Claim]
	KeyHash string // as in [Claim]

	Owner    string        // the name of the last owner, or a hash of it
	Fence    uint64        // of the last run; 0 of a write that was run in a transaction
	Attempts int           // how many runs were claimed; 0 if the store does not know
	Age      time.Duration // since the first of them

	// Left is the time until the lease or the retention ends. It is negative if the lease
	// has expired.
	Left time.Duration

	TakenOver  bool   // the next run will be told of a possible effect
	Checkpoint []byte // as [Codec.EncodeCheckpoint] has made it
	Outcome    []byte // as [Codec.Encode] has made it; from Find alone
}

// Stats are what a store counts in its process, for metrics.
type Stats struct {
	// Records and Bytes are what it holds, and MaxRecords and MaxBytes what it may hold. All
	// are 0 for a store that is not bounded.
	Records, MaxRecords, Bytes, MaxBytes int64

	// Purged is how many expired records it has deleted, and PurgeFailures how often
	// that failed.
	Purged, PurgeFailures int64
}

// Measured is a [Store] with counts. Stats is fast, and safe for concurrent use.
type Measured interface {
	Store
	Stats() Stats
}
