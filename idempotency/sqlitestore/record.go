package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// record is a row of the table hopbound_idempotency: pending, released (without an owner) or
// done. Times are in nanoseconds since 1970.
type record struct {
	id          idempotency.ID
	owner       string
	fence       int64
	done        bool
	effect      bool  // a run may have had an effect, and there is no outcome
	until       int64 // the end of the lease or the retention
	keep        int64 // for how long the record is kept after that; 0 if it is done
	created     int64 // when the first run was claimed
	attempts    int64
	method      string
	keyHash     string
	fingerprint idempotency.Fingerprint
	stored      []byte // the outcome or, until it is done, the checkpoint
}

const columns = "id, owner, fence, done, effect, until, keep, created, attempts, method, key_hash, fp_schema, fp_sum, stored"

// selectRecords reads records, and the file's time with each.
const selectRecords = "SELECT (SELECT time FROM hopbound_idempotency_state), " + columns + " FROM hopbound_idempotency "

// scanRecord reads a row of selectRecords. An error wraps [idempotency.ErrCorrupt] if the row is
// none that the store has written; the record then has its ID, unless that is wrong.
func scanRecord(scan func(dest ...any) error) (r *record, fileTime int64, err error) {
	r = &record{}
	var (
		id, sum      []byte
		done, effect int64
	)
	if err := scan(&fileTime, &id, &r.owner, &r.fence, &done, &effect, &r.until, &r.keep, &r.created, &r.attempts,
		&r.method, &r.keyHash, &r.fingerprint.Schema, &sum, &r.stored); err != nil {
		return nil, 0, err
	}
	const isFlag = ^int64(1)
	switch {
	case copy(r.id[:], id) != len(id) || len(id) != len(r.id):
		return nil, 0, fmt.Errorf("%w: its ID has %d bytes", idempotency.ErrCorrupt, len(id))
	case len(sum) != len(r.fingerprint.Sum):
		return r, 0, fmt.Errorf("%w: its fingerprint has %d bytes", idempotency.ErrCorrupt, len(sum))
	case (done|effect)&isFlag != 0 || r.fence <= 0 || r.keep < 0:
		return r, 0, fmt.Errorf("%w: done %d, effect %d, fence %d, keep %d", idempotency.ErrCorrupt, done, effect, r.fence, r.keep)
	}
	r.done, r.effect = done == 1, effect == 1
	copy(r.fingerprint.Sum[:], sum)
	return r, fileTime, nil
}

// rowQuerier is a [sql.DB] or a [sql.Conn].
type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// readRecord reads the record of an ID and the file's time. The record is nil if there is none.
func readRecord(ctx context.Context, q rowQuerier, id idempotency.ID) (*record, int64, error) {
	r, fileTime, err := scanRecord(q.QueryRowContext(ctx, selectRecords+"WHERE id = ?", id[:]).Scan)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, 0, nil
	case err != nil:
		return nil, 0, err
	default:
		return r, fileTime, nil
	}
}

// due returns when the record may be deleted.
func (r *record) due() int64 { return r.until + r.keep }

// owns reports whether the lease is that of the record.
func (r *record) owns(lease idempotency.Lease) bool {
	return r != nil && r.owner == lease.Owner && uint64(r.fence) == lease.Fence //nolint:gosec // it is positive
}

// known returns what the record says to someone who owns nothing: Absent if the write can be
// claimed. A nil record can be claimed.
func (r *record) known(fingerprint *idempotency.Fingerprint, now int64) idempotency.BeginResult {
	switch {
	case r == nil, r.due() <= now:
		return idempotency.BeginResult{State: idempotency.Absent}
	case fingerprint.Differs(r.fingerprint):
		return idempotency.BeginResult{State: idempotency.Reused}
	case r.done:
		return idempotency.BeginResult{State: idempotency.Replay, Outcome: r.stored}
	case r.owner != "" && r.until > now:
		return idempotency.BeginResult{State: idempotency.Join}
	default:
		return idempotency.BeginResult{State: idempotency.Absent, TakenOver: r.effect || r.owner != ""}
	}
}

// answer returns what the record says to a claim: Absent if the write can be claimed anew.
func (r *record) answer(claim *idempotency.Claim, now int64) idempotency.BeginResult {
	if r != nil && !r.done && r.due() > now && r.owner == claim.Owner && !claim.Fingerprint.Differs(r.fingerprint) {
		return r.run()
	}
	return r.known(&claim.Fingerprint, now)
}

// run returns the answer to the owner of a pending record.
func (r *record) run() idempotency.BeginResult {
	return idempotency.BeginResult{State: idempotency.Run, Fence: uint64(r.fence), TakenOver: r.effect, Checkpoint: r.stored} //nolint:gosec // it is positive
}

// left returns for how much longer the record is pending.
func (r *record) left(now int64) time.Duration {
	if r == nil || r.done || r.owner == "" {
		return 0
	}
	return time.Duration(r.until - now)
}
