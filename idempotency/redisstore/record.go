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
	"github.com/redis/rueidis"
)

// A record is one value: 'p' or 'd' for pending or done, the fence in 16 digits,
// the length of the owner in 2 bytes and the owner, a hash of the fingerprint's
// schema, the fingerprint's sum, and the outcome. The scripts know where these
// are. When its lease ends is told by the time to live that Redis has for it,
// which is that of the lease and the time for which an abandoned record is kept.
const (
	pending = 'p'
	done    = 'd'

	fenceAt       = 1
	fenceLen      = 16
	ownerLenAt    = fenceAt + fenceLen
	ownerAt       = ownerLenAt + ownerLenBytes
	ownerLenBytes = 2
	schemaLen     = 16
)

func checkOwner(owner string) error {
	if owner == "" || len(owner) > math.MaxUint16 {
		return errors.New("redisstore: an owner has 1 to 65535 bytes")
	}
	return nil
}

// pendingPart returns what the pending record of a lease begins with.
func pendingPart(lease idempotency.Lease) string {
	b := make([]byte, 0, ownerAt+len(lease.Owner))
	b = append(b, pending)
	b = appendFence(b, lease.Fence)
	return rueidis.BinaryString(appendOwner(b, lease.Owner))
}

// claimPart returns what a record has of a claim.
func claimPart(claim *idempotency.Claim) string {
	b := make([]byte, 0, ownerLenBytes+len(claim.Owner)+schemaLen+sha256.Size)
	schema := schemaHash(claim.Fingerprint.Schema)
	b = append(appendOwner(b, claim.Owner), schema[:]...)
	return rueidis.BinaryString(append(b, claim.Fingerprint.Sum[:]...))
}

// appendFence appends a fence as it is in a record.
func appendFence(b []byte, fence uint64) []byte {
	var digits [fenceLen]byte
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = byte('0' + fence%10)
		fence /= 10
	}
	return append(b, digits[:]...)
}

// appendOwner appends an owner as it is in a record. checkOwner bounds its length.
func appendOwner(b []byte, owner string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(owner))), owner...) //nolint:gosec // it is bounded
}

// schemaHash names a schema in 16 bytes; no schema is zeros.
func schemaHash(schema string) (h [schemaLen]byte) {
	if schema != "" {
		sum := sha256.Sum256([]byte(schema))
		copy(h[:], sum[:])
	}
	return h
}

// readRecord reads a record for whoever claims it. An error wraps
// [idempotency.ErrCorrupt].
func readRecord(record []byte, claim *idempotency.Claim) (idempotency.Begun, error) {
	corrupt := func(what string) (idempotency.Begun, error) {
		return idempotency.Begun{}, fmt.Errorf("%w: %s", idempotency.ErrCorrupt, what)
	}
	if len(record) < ownerAt {
		return corrupt("it is too short")
	}
	fence, err := strconv.ParseUint(string(record[fenceAt:ownerLenAt]), 10, 64)
	if err != nil {
		return corrupt("its fence is no number")
	}
	schemaAt := ownerAt + int(binary.BigEndian.Uint16(record[ownerLenAt:]))
	sumAt := schemaAt + schemaLen
	outcomeAt := sumAt + sha256.Size
	switch {
	case record[0] != pending && record[0] != done:
		return corrupt(fmt.Sprintf("it begins with %q", record[0]))
	case schemaAt == ownerAt:
		return corrupt("it has no owner")
	case len(record) < outcomeAt:
		return corrupt("it is too short")
	case record[0] == pending && len(record) > outcomeAt:
		return corrupt("it is pending, and has an outcome")
	}
	schema := schemaHash(claim.Fingerprint.Schema)
	differs := claim.Fingerprint.Schema != "" && bytes.Equal(schema[:], record[schemaAt:sumAt]) &&
		!bytes.Equal(claim.Fingerprint.Sum[:], record[sumAt:outcomeAt])
	switch {
	case differs:
		return idempotency.Begun{State: idempotency.Reused}, nil
	case record[0] == done:
		return idempotency.Begun{State: idempotency.Replay, Outcome: record[outcomeAt:]}, nil
	case string(record[ownerAt:schemaAt]) == claim.Owner:
		return idempotency.Begun{State: idempotency.Run, Fence: fence}, nil
	default:
		return idempotency.Begun{State: idempotency.Join}, nil
	}
}
