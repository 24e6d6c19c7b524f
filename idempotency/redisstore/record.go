package redisstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/hopbound/hopbound/idempotency"
)

// A record is one value: 'p' or 'd' for pending or done, the fence in 16 digits,
// a hash of the fingerprint's schema and the fingerprint's sum, the length of the
// owner in 2 bytes and the owner, and the outcome. The scripts know where these
// are. When its lease ends is told by the time to live that Redis has for it,
// which is that of the lease and the time for which an abandoned record is kept.
const (
	pending   = 'p'
	done      = 'd'
	claimed   = 'c' // with a fence: the answer to a claim of a new record
	takenOver = 't' // or of one whose lease had run out

	fenceAt       = 1
	fenceLen      = 16
	schemaAt      = fenceAt + fenceLen
	schemaLen     = 16
	sumAt         = schemaAt + schemaLen
	ownerAt       = sumAt + sha256.Size
	ownerLenBytes = 2
)

// ownerPart returns an owner as it is in a record.
func ownerPart(owner string) string {
	length := [ownerLenBytes]byte{byte(len(owner) >> 8), byte(len(owner))} //nolint:gosec // checkOwner bounds it
	return string(length[:]) + owner
}

func checkOwner(owner string) error {
	if owner == "" || len(owner) > math.MaxUint16 {
		return errors.New("redisstore: an owner has 1 to 65535 bytes")
	}
	return nil
}

// fencePart returns a fence as it is in a record.
func fencePart(fence uint64) string {
	var digits [fenceLen]byte
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = byte('0' + fence%10)
		fence /= 10
	}
	return string(digits[:])
}

// schemaHash names a schema in 16 bytes; no schema is zeros.
func schemaHash(schema string) (h [schemaLen]byte) {
	if schema != "" {
		sum := sha256.Sum256([]byte(schema))
		copy(h[:], sum[:])
	}
	return h
}

// fingerprintPart returns a fingerprint as it is in a record.
func fingerprintPart(f idempotency.Fingerprint) string {
	var part [schemaLen + sha256.Size]byte
	schema := schemaHash(f.Schema)
	copy(part[copy(part[:], schema[:]):], f.Sum[:])
	return string(part[:])
}

// readBegun reads what a claim is answered with. An error wraps
// [idempotency.ErrCorrupt].
func readBegun(answer []byte, claim *idempotency.Claim) (idempotency.Begun, error) {
	corrupt := func(what string) (idempotency.Begun, error) {
		return idempotency.Begun{}, fmt.Errorf("%w: %s", idempotency.ErrCorrupt, what)
	}
	if len(answer) < fenceAt+fenceLen {
		return corrupt("it is too short")
	}
	fence, err := strconv.ParseUint(string(answer[fenceAt:schemaAt]), 10, 64)
	if err != nil {
		return corrupt("its fence is no number")
	}
	switch answer[0] {
	case claimed, takenOver:
		if len(answer) > schemaAt {
			return corrupt("it is too long")
		}
		return idempotency.Begun{State: idempotency.Run, Fence: fence, TakenOver: answer[0] == takenOver}, nil
	case pending, done:
	default:
		return corrupt(fmt.Sprintf("it begins with %q", answer[0]))
	}
	if len(answer) < ownerAt+ownerLenBytes {
		return corrupt("it is too short")
	}
	outcomeAt := ownerAt + ownerLenBytes + int(binary.BigEndian.Uint16(answer[ownerAt:]))
	if len(answer) < outcomeAt || outcomeAt == ownerAt+ownerLenBytes {
		return corrupt("it has no owner")
	}
	schema := schemaHash(claim.Fingerprint.Schema)
	differs := claim.Fingerprint.Schema != "" && bytes.Equal(schema[:], answer[schemaAt:sumAt]) &&
		!bytes.Equal(claim.Fingerprint.Sum[:], answer[sumAt:ownerAt])
	switch {
	case differs:
		return idempotency.Begun{State: idempotency.Reused}, nil
	case answer[0] == done:
		return idempotency.Begun{State: idempotency.Replay, Outcome: answer[outcomeAt:]}, nil
	case len(answer) > outcomeAt:
		return corrupt("it is pending, and has an outcome")
	case string(answer[ownerAt+ownerLenBytes:outcomeAt]) == claim.Owner:
		return idempotency.Begun{State: idempotency.Run, Fence: fence}, nil
	default:
		return idempotency.Begun{State: idempotency.Join}, nil
	}
}
