package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// record is a row of the table hopbound_idempotency. Its times count from the beginning of 1970.
type record struct {
	idempotency.StoredRecord
	id idempotency.ID
}

const columns = "id, owner, fence, done, effect, until, keep, created, attempts, method, key_hash, fp_schema, fp_sum, stored"

// selectRecords reads records, and the file's time with each.
const selectRecords = "SELECT (SELECT time FROM hopbound_idempotency_state), " + columns + " FROM hopbound_idempotency "

// scanRecord reads a row of selectRecords. An error wraps [idempotency.ErrCorrupt] if the store
// cannot have written the row; the record then has its ID, unless that is wrong.
func scanRecord(scan func(dest ...any) error) (r *record, fileTime time.Duration, err error) {
	r = &record{}
	var (
		id, sum             []byte
		fence, done, effect int64
	)
	if err := scan(&fileTime, &id, &r.Owner, &fence, &done, &effect, &r.Until, &r.Keep, &r.Created, &r.Attempts,
		&r.Method, &r.KeyHash, &r.Fingerprint.Schema, &sum, &r.Data); err != nil {
		return nil, 0, err
	}
	const isFlag = ^int64(1)
	switch {
	case copy(r.id[:], id) != len(id) || len(id) != len(r.id):
		return nil, 0, fmt.Errorf("%w: its ID has %d bytes", idempotency.ErrCorrupt, len(id))
	case len(sum) != len(r.Fingerprint.Sum):
		return r, 0, fmt.Errorf("%w: its fingerprint has %d bytes", idempotency.ErrCorrupt, len(sum))
	case (done|effect)&isFlag != 0 || fence <= 0 || r.Keep < 0:
		return r, 0, fmt.Errorf("%w: done %d, effect %d, fence %d, keep %d", idempotency.ErrCorrupt, done, effect, fence, r.Keep)
	}
	r.Done, r.Effect, r.Fence = done == 1, effect == 1, uint64(fence)
	copy(r.Fingerprint.Sum[:], sum)
	return r, fileTime, nil
}

// rowQuerier is a [sql.DB] or a [sql.Conn].
type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// readRecord reads the record of an ID, which is the zero value if there is none, and the file's
// time.
func readRecord(ctx context.Context, q rowQuerier, id idempotency.ID) (*record, time.Duration, error) {
	r, fileTime, err := scanRecord(q.QueryRowContext(ctx, selectRecords+"WHERE id = ?", id[:]).Scan)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return &record{id: id}, 0, nil
	case err != nil:
		return nil, 0, err
	default:
		return r, fileTime, nil
	}
}
