package idempotency

import (
	"context"
	"iter"
	"time"
)

// An Inspector is a [Store] with methods that let an operator list, release and delete records. The
// methods are safe for concurrent use, also while servers use the store.
type Inspector interface {
	Store

	// Find returns the record of an ID, or nil and no error if there is none.
	Find(ctx context.Context, id ID) (*Record, error)

	// Records returns all records, in any order, without outcomes. A record that cannot be
	// read comes with its ID alone and an error that wraps [ErrCorrupt]. Any other error comes
	// without a record, and ends the iteration. A record that is created or changed meanwhile
	// may be missing or come twice.
	Records(ctx context.Context) iter.Seq2[*Record, error]

	// Free releases a pending record as its owner would after a failure: the next call with the
	// key runs the write, and [TakenOver] is true for its handler. Free returns [ErrLeaseLost] if
	// the record has changed since it was found.
	Free(ctx context.Context, r *Record) error

	// Forget deletes a record: the next call with the key runs the write, and TakenOver is false
	// for its handler. Forget returns [ErrLeaseLost] if the record has changed since it was found,
	// or if its lease had expired then and has been extended since.
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

// Record is the record of a write as an operator sees it. Its times are relative to the store's time
// when the record was read.
type Record struct {
	ID      ID
	State   RecordState
	Method  string // the full method, as in [Claim]
	KeyHash string // as in [Claim]

	Owner    string        // the name of the last owner, or a hash of it
	Fence    uint64        // of the last run; 0 if pgstore drew none for a run in a transaction
	Attempts int           // how many runs were claimed; 0 if the store does not know
	Age      time.Duration // since the first of those claims

	// Left is the time until the lease of a pending record or the retention of a done record ends,
	// or until a released record is deleted. It is negative if the lease has expired.
	Left time.Duration

	TakenOver  bool   // what the function TakenOver would return in the next run
	Checkpoint []byte // encoded by [Codec.EncodeCheckpoint]
	Outcome    []byte // encoded by [Codec.Encode]; only Find sets it
}

// Stats are the counts of a store in this process, for metrics.
type Stats struct {
	// Records and Bytes are the size of the store, and MaxRecords and MaxBytes its bounds. All are
	// 0 for a store that is not bounded.
	Records, MaxRecords, Bytes, MaxBytes int64

	// Purged is how many expired records the store has deleted, and PurgeFailures is how often a
	// deletion failed.
	Purged, PurgeFailures int64
}

// Measured is a [Store] with counts for metrics. Stats does no I/O, and is safe for concurrent use.
type Measured interface {
	Store
	Stats() Stats
}
