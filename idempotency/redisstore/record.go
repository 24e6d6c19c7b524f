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
// fingerprint's schema's and 16 of the fingerprint's sum's. When it is done, it has
// the byte 2, what it was before, and the outcome. Numbers are big-endian. The scripts
// know where all this is. When its lease ends is told by the time to live that Redis
// has for it, which is that of the lease and the time for which an abandoned record
// is kept.
//
// It is short because Lua hashes each byte that it is given, and because Redis keeps
// values of no more than 44 bytes in one piece with what it knows of them.
const (
	pending = 1
	done    = 2

	ownerAt       = 8
	fingerprintAt = ownerAt + 12
	sumAt         = fingerprintAt + 8
	pendingLen    = sumAt + 16
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
	return appendFingerprint(appendOwner(b, claim.Owner), &claim.Fingerprint)
}

func appendOwner(b []byte, owner string) []byte {
	sum := sha256.Sum256([]byte(owner))
	return append(b, sum[:fingerprintAt-ownerAt]...)
}

// appendFingerprint appends a fingerprint as it is in a record. None is zeros.
func appendFingerprint(b []byte, f *idempotency.Fingerprint) []byte {
	if f.Schema == "" {
		return append(b, make([]byte, pendingLen-fingerprintAt)...)
	}
	schema, sum := sha256.Sum256([]byte(f.Schema)), sha256.Sum256(f.Sum[:])
	return append(append(b, schema[:sumAt-fingerprintAt]...), sum[:pendingLen-sumAt]...)
}

// readRecord reads a record for whoever claims it. An error wraps
// [idempotency.ErrCorrupt].
func readRecord(record []byte, claim *idempotency.Claim) (idempotency.Begun, error) {
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
	switch {
	case record[0] != pending:
		return corrupt(fmt.Sprintf("it is neither pending nor done, but %d", record[0]))
	case fence == 0 || fence >= beyondFences:
		return corrupt("its fence is out of range")
	case !isDone && len(record) > pendingLen:
		return corrupt("it is pending, and has an outcome")
	}
	ours := appendClaim(nil, claim)
	owner, fingerprint := ours[:fingerprintAt-ownerAt], ours[fingerprintAt-ownerAt:]
	sameSchema := bytes.Equal(fingerprint[:sumAt-fingerprintAt], record[fingerprintAt:sumAt])
	switch {
	case sameSchema && !bytes.Equal(fingerprint, record[fingerprintAt:pendingLen]):
		return idempotency.Begun{State: idempotency.Reused}, nil
	case isDone:
		return idempotency.Begun{State: idempotency.Replay, Outcome: record[pendingLen:]}, nil
	case bytes.Equal(owner, record[ownerAt:fingerprintAt]):
		return idempotency.Begun{State: idempotency.Run, Fence: fence}, nil
	default:
		return idempotency.Begun{State: idempotency.Join}, nil
	}
}
