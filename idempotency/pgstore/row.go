package pgstore

import (
	"errors"
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/jackc/pgx/v5"
)

// row is a record as it was read.
type row struct {
	owner       string
	fence       int64
	fingerprint idempotency.Fingerprint
	done, live  bool // live: its lease or retention has not ended
	effect      bool // a run may have had an effect, and no outcome is stored
	outcome     []byte
	checkpoint  []byte
}

// result returns the state of the record for a claim, or false if the record can be claimed.
//
// It has the rules of [idempotency.StoredRecord.Ask]. The rules for all other steps are in the SQL
// statements and in the function for claims, because each step is one round trip. The linearizability
// check of package storetest compares them with the model of all stores.
func (r *row) result(claim *idempotency.Claim) (idempotency.BeginResult, bool) {
	differs := claim.Fingerprint.Differs(r.fingerprint)
	switch {
	case r.done && !r.live, !r.done && r.owner == "" && !r.effect: // it has expired, or was released without an effect
		return idempotency.BeginResult{}, false
	case differs:
		return idempotency.BeginResult{State: idempotency.Reused}, true
	case r.done:
		return idempotency.BeginResult{State: idempotency.Replay, Outcome: r.outcome}, true
	case r.owner == claim.Owner && r.owner != "":
		return idempotency.BeginResult{State: idempotency.Run, Fence: uint64(r.fence), TakenOver: r.effect, Checkpoint: r.checkpoint}, true //nolint:gosec // it is not negative
	case r.live && r.owner != "":
		return idempotency.BeginResult{State: idempotency.Join}, true
	default:
		return idempotency.BeginResult{}, false
	}
}

// claimResult is the result of a statement that claims a record: either it has claimed the record, or
// row is the record. If row is nil, the record was deleted or has changed, and the claim is repeated.
type claimResult struct {
	claimed, takenOver bool
	row                *row
}

// scanInsert reads the result of the claim of a new record.
func scanInsert(from pgx.Row) (t claimResult, err error) {
	t.row = &row{}
	err = from.Scan(&t.row.fence)
	t.claimed = err == nil
	return t, ignoreNone(err)
}

// scanClaim reads the result of the function for claims.
func scanClaim(from pgx.Row) (t claimResult, err error) {
	var (
		fence                 *int64
		takenOver, done, live *bool
		effect                *bool
		owner, schema         *string
		sum, outcome, last    []byte
	)
	if err := from.Scan(&t.claimed, &takenOver, &fence, &owner, &schema, &sum, &done, &live, &effect, &outcome, &last); err != nil {
		return t, err
	}
	switch {
	case t.claimed:
		t.takenOver = takenOver != nil && *takenOver
		t.row = &row{fence: *fence, checkpoint: last}
	case owner != nil:
		t.row = &row{owner: *owner, fence: *fence, done: *done, live: *live, effect: *effect, outcome: outcome, checkpoint: last}
		return t, t.row.setFingerprint(*schema, sum)
	}
	return t, nil
}

// scanRow reads a record, or nil if there is none.
func scanRow(from pgx.Row) (*row, error) {
	var (
		r      row
		schema string
		sum    []byte
	)
	err := from.Scan(&r.fence, &r.owner, &schema, &sum, &r.done, &r.live, &r.effect, &r.outcome, &r.checkpoint)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil //nolint:nilnil // there is none
	}
	if err != nil {
		return nil, err
	}
	return &r, r.setFingerprint(schema, sum)
}

func (r *row) setFingerprint(schema string, sum []byte) error {
	r.fingerprint.Schema = schema
	if copy(r.fingerprint.Sum[:], sum) != len(r.fingerprint.Sum) || len(sum) != len(r.fingerprint.Sum) {
		return fmt.Errorf("%w: its fingerprint has %d bytes", idempotency.ErrCorrupt, len(sum))
	}
	return nil
}

// result returns the result of the claim, or false if the claim is to be repeated.
func (t *claimResult) result(claim *idempotency.Claim) (idempotency.BeginResult, bool) {
	switch {
	case t.claimed:
		return idempotency.BeginResult{State: idempotency.Run, Fence: uint64(t.row.fence), TakenOver: t.takenOver, Checkpoint: t.row.checkpoint}, true //nolint:gosec // it is not negative
	case t.row == nil:
		return idempotency.BeginResult{}, false
	default:
		return t.row.result(claim)
	}
}
