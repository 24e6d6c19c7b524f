package redisstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
)

// A record is one value: the version of its format, the fence in 7 bytes, and of
// hashes that tell one from another 12 bytes of the owner's, 8 of the fingerprint's
// schema's, and 16 that are both halves of the fingerprint's sum. If it is done, a
// 'd' and the outcome come after these. Numbers are big-endian. The scripts know
// where all this is. When its lease ends is told by the time to live that Redis has
// for it, which is that of the lease and the time for which an abandoned record is
// kept.
//
// It is short because Lua hashes each byte that it is given, and because Redis keeps
// values of no more than 44 bytes in one piece with what it knows of them.
const (
	version = 1
	done    = 'd'

	ownerAt       = 8
	fingerprintAt = ownerAt + 12
	sumAt         = fingerprintAt + 8
	doneAt        = sumAt + 16
	mostFence     = 1 << 53 // that Lua knows exactly
)

// appendLease appends what the record of a lease begins with. A fence that is larger
// than any makes another version of it.
func appendLease(b []byte, lease *idempotency.Lease) []byte {
	return appendOwner(binary.BigEndian.AppendUint64(b, version<<56+lease.Fence), lease.Owner)
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
		return append(b, make([]byte, doneAt-fingerprintAt)...)
	}
	schema := sha256.Sum256([]byte(f.Schema))
	b = append(b, schema[:sumAt-fingerprintAt]...)
	for i, c := range f.Sum[:doneAt-sumAt] {
		b = append(b, c^f.Sum[doneAt-sumAt+i])
	}
	return b
}

// readRecord reads a record for whoever claims it. An error wraps
// [idempotency.ErrCorrupt].
func readRecord(record []byte, claim *idempotency.Claim) (idempotency.Begun, error) {
	corrupt := func(what string) (idempotency.Begun, error) {
		return idempotency.Begun{}, fmt.Errorf("%w: %s", idempotency.ErrCorrupt, what)
	}
	if len(record) < doneAt {
		return corrupt("it is too short")
	}
	fence := binary.BigEndian.Uint64(record) & (1<<56 - 1)
	switch {
	case record[0] != version:
		return corrupt(fmt.Sprintf("its version is %d", record[0]))
	case fence == 0 || fence > mostFence:
		return corrupt("its fence is out of range")
	case len(record) > doneAt && record[doneAt] != done:
		return corrupt("it is too long")
	}
	ours := appendClaim(nil, claim)
	owner, fingerprint := ours[:fingerprintAt-ownerAt], ours[fingerprintAt-ownerAt:]
	sameSchema := bytes.Equal(fingerprint[:sumAt-fingerprintAt], record[fingerprintAt:sumAt])
	switch {
	case sameSchema && !bytes.Equal(fingerprint, record[fingerprintAt:doneAt]):
		return idempotency.Begun{State: idempotency.Reused}, nil
	case len(record) > doneAt:
		return idempotency.Begun{State: idempotency.Replay, Outcome: record[doneAt+1:]}, nil
	case bytes.Equal(owner, record[ownerAt:fingerprintAt]):
		return idempotency.Begun{State: idempotency.Run, Fence: fence}, nil
	default:
		return idempotency.Begun{State: idempotency.Join}, nil
	}
}
