package redisstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
)

// A record is one value. While it is pending, it has the byte 1, the fence in 7
// bytes, and of hashes that tell one from another 12 bytes of the owner's, 8 of the
// fingerprint's schema's and 16 of the fingerprint's sum's; then a byte that is 1 if an
// earlier run may have had an effect, and in 7 bytes for how many milliseconds it is kept
// after its lease. When it is done, it has the byte 2, what it was before, and the
// outcome. When it was released with a possible effect, it has the byte 3 in place of the 1,
// and zeros for the owner. Numbers are big-endian. The scripts know where all this is.
// When its lease ends is told by the time to live that Redis has for it, which is that of
// the lease and the time for which it is kept afterwards.
const (
	pending  = 1
	done     = 2
	released = 3

	ownerAt       = 8
	fingerprintAt = ownerAt + 12
	sumAt         = fingerprintAt + 8
	effectAt      = sumAt + 16
	pendingLen    = effectAt + 8
	beyondFences  = 1 << 53 // where Lua's numbers are not exact any more
)

// appendLease appends what the pending record of a lease begins with. A fence that
// nobody was given is 0 there.
func appendLease(b []byte, lease *idempotency.Lease) []byte {
	fence := lease.Fence
	if fence >= beyondFences {
		fence = 0
	}
	return appendOwner(binary.BigEndian.AppendUint64(b, pending<<56|fence), lease.Owner)
}

// appendClaim appends what a record has of a claim.
func appendClaim(b []byte, claim *idempotency.Claim) []byte {
	b = appendFingerprint(appendOwner(b, claim.Owner), &claim.Fingerprint)
	return binary.BigEndian.AppendUint64(b, uint64(millis(claim.KeepFor()))) //nolint:gosec // it is not negative, and small
}

func appendOwner(b []byte, owner string) []byte {
	sum := sha256.Sum256([]byte(owner))
	return append(b, sum[:fingerprintAt-ownerAt]...)
}

// appendFingerprint appends a fingerprint as it is in a record. None is zeros.
func appendFingerprint(b []byte, f *idempotency.Fingerprint) []byte {
	if f.Schema == "" {
		return append(b, make([]byte, effectAt-fingerprintAt)...)
	}
	schema, sum := sha256.Sum256([]byte(f.Schema)), sha256.Sum256(f.Sum[:])
	return append(append(b, schema[:sumAt-fingerprintAt]...), sum[:effectAt-sumAt]...)
}

// readRecord reads a record for whoever claims it. An error wraps
// [idempotency.ErrCorrupt].
func readRecord(record []byte, claim *idempotency.Claim) (idempotency.Begun, error) {
	const forever = -1
	b, err := lookRecord(record, claim, forever)
	owner := appendOwner(nil, claim.Owner)
	if b.State == idempotency.Join && bytes.Equal(owner, record[ownerAt:fingerprintAt]) {
		fence := binary.BigEndian.Uint64(record) & (1<<56 - 1)
		return idempotency.Begun{State: idempotency.Run, Fence: fence, TakenOver: record[effectAt] != 0}, nil
	}
	return b, err
}

// lookRecord tells what is known by a record that lives for some more milliseconds, or
// forever if they are negative. An error wraps [idempotency.ErrCorrupt].
func lookRecord(record []byte, claim *idempotency.Claim, lives int64) (idempotency.Begun, error) {
	corrupt := func(what string) (idempotency.Begun, error) {
		return idempotency.Begun{}, fmt.Errorf("%w: %s", idempotency.ErrCorrupt, what)
	}
	isDone := len(record) > 0 && record[0] == done
	if isDone {
		record = record[1:]
	}
	if len(record) < pendingLen {
		return corrupt("it is too short")
	}
	fence := binary.BigEndian.Uint64(record) & (1<<56 - 1)
	isReleased := !isDone && record[0] == released
	switch {
	case record[0] != pending && !isReleased:
		return corrupt(fmt.Sprintf("it is neither pending nor done, but %d", record[0]))
	case fence == 0 || fence >= beyondFences:
		return corrupt("its fence is out of range")
	case !isDone && len(record) > pendingLen:
		return corrupt("it is pending, and has an outcome")
	}
	fingerprint := appendFingerprint(nil, &claim.Fingerprint)
	sameSchema := bytes.Equal(fingerprint[:sumAt-fingerprintAt], record[fingerprintAt:sumAt])
	keep := binary.BigEndian.Uint64(record[effectAt:]) & (1<<56 - 1)
	switch {
	case sameSchema && !bytes.Equal(fingerprint, record[fingerprintAt:effectAt]):
		return idempotency.Begun{State: idempotency.Reused}, nil
	case isDone:
		return idempotency.Begun{State: idempotency.Replay, Outcome: record[pendingLen:]}, nil
	case !isReleased && (lives < 0 || uint64(lives) > keep):
		return idempotency.Begun{State: idempotency.Join}, nil
	default:
		return idempotency.Begun{State: idempotency.Absent, TakenOver: true}, nil
	}
}
