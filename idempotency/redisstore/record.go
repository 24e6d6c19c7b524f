package redisstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
)

// A record is one value, which consists of:
//
//	kind         1 byte: P is pending, R released with a possible effect, D done
//	fence        7 bytes
//	owner        12 bytes of a hash; zeros of a released record
//	fingerprint  8 bytes of a hash of its schema, 16 of one of its sum
//	effect       1 byte: 1 if an earlier run may have had an effect
//	keep         7 bytes: for how many milliseconds it is kept after its lease
//	attempts     2 bytes: how many runs were claimed
//	created      6 bytes: when the first was, in milliseconds of Unix time
//	key hash     8 bytes
//	method       1 byte of its length, and as many bytes
//	data         the outcome of a done record, the checkpoint of any other
//
// Numbers are big-endian. The scripts have the same offsets. The time to live of a pending record in
// Redis is the sum of its lease and its keep.
const (
	pending  = 'P'
	released = 'R'
	done     = 'D'

	ownerAt       = 8
	fingerprintAt = ownerAt + 12
	sumAt         = fingerprintAt + 8
	effectAt      = sumAt + 16
	attemptsAt    = effectAt + 8
	createdAt     = attemptsAt + 2
	keyHashAt     = createdAt + 6
	methodAt      = keyHashAt + 8
	minLen        = methodAt + 1
	maxFence      = 1<<53 - 1 // the largest integer up to which Lua's numbers are exact
	sevenBytes    = 1<<56 - 1
)

// appendLease appends the first bytes of a pending record: its kind, fence and owner. A fence that is
// too large to have been drawn is written as 0, which no record has.
func appendLease(b []byte, lease *idempotency.Lease) []byte {
	fence := lease.Fence
	if fence > maxFence {
		fence = 0
	}
	return appendOwner(binary.BigEndian.AppendUint64(b, pending<<56|fence), lease.Owner)
}

// appendClaim appends the argument of the script that claims a record: the record without its kind,
// fence, attempts and creation time.
func appendClaim(b []byte, claim *idempotency.Claim) []byte {
	b = appendFingerprint(appendOwner(b, claim.Owner), &claim.Fingerprint)
	b = binary.BigEndian.AppendUint64(b, uint64(millis(claim.KeepFor()))) //nolint:gosec // it is not negative, and small
	var keyHash [methodAt - keyHashAt]byte
	_, _ = hex.Decode(keyHash[:], []byte(claim.KeyHash[:min(len(claim.KeyHash), 2*len(keyHash))])) // zeros if it is not a hash
	b = append(b, keyHash[:]...)
	method := claim.Method[:min(len(claim.Method), 255)]
	return append(append(b, byte(len(method))), method...) //nolint:gosec // it is at most 255
}

func appendOwner(b []byte, owner string) []byte {
	sum := sha256.Sum256([]byte(owner))
	return append(b, sum[:fingerprintAt-ownerAt]...)
}

// appendFingerprint appends a fingerprint as it is in a record: zeros for the zero value.
func appendFingerprint(b []byte, f *idempotency.Fingerprint) []byte {
	if f.Schema == "" {
		return append(b, make([]byte, effectAt-fingerprintAt)...)
	}
	schema, sum := sha256.Sum256([]byte(f.Schema)), sha256.Sum256(f.Sum[:])
	return append(append(b, schema[:sumAt-fingerprintAt]...), sum[:effectAt-sumAt]...)
}

// record is a record as it was read.
type record []byte

// parse checks that a value is a record. An error wraps [idempotency.ErrCorrupt].
func parse(value []byte) (record, error) {
	r := record(value)
	switch {
	case len(r) < minLen || len(r) < r.head():
		return nil, fmt.Errorf("%w: it is too short", idempotency.ErrCorrupt)
	case r[0] != pending && r[0] != released && r[0] != done:
		return nil, fmt.Errorf("%w: it begins with %d", idempotency.ErrCorrupt, r[0])
	case r.fence() == 0 || r.fence() > maxFence:
		return nil, fmt.Errorf("%w: its fence is out of range", idempotency.ErrCorrupt)
	default:
		return r, nil
	}
}

func (r record) head() int     { return minLen + int(r[methodAt]) }
func (r record) fence() uint64 { return binary.BigEndian.Uint64(r) & sevenBytes }
func (r record) keep() uint64  { return binary.BigEndian.Uint64(r[effectAt:]) & sevenBytes }

// data returns the outcome or the checkpoint, or nil if it is empty.
func (r record) data() []byte {
	if data := r[r.head():]; len(data) > 0 {
		return data
	}
	return nil
}

// ask returns the result of a claim, given the record as the script has left it.
func (r record) ask(claim *idempotency.Claim) idempotency.BeginResult {
	const noExpiry = -1 // the script has checked the lease
	known := r.look(claim, noExpiry)
	if known.State == idempotency.Join && bytes.Equal(appendOwner(nil, claim.Owner), r[ownerAt:fingerprintAt]) {
		return idempotency.BeginResult{State: idempotency.Run, Fence: r.fence(), TakenOver: r[effectAt] != 0, Checkpoint: r.data()}
	}
	return known
}

// look returns the state of the record for a caller that owns nothing. The time to live is in
// milliseconds. If it is negative, the record has no expiry.
func (r record) look(claim *idempotency.Claim, ttl int64) idempotency.BeginResult {
	fingerprint := appendFingerprint(nil, &claim.Fingerprint)
	sameSchema := bytes.Equal(fingerprint[:sumAt-fingerprintAt], r[fingerprintAt:sumAt])
	switch {
	case sameSchema && !bytes.Equal(fingerprint, r[fingerprintAt:effectAt]):
		return idempotency.BeginResult{State: idempotency.Reused}
	case r[0] == done:
		return idempotency.BeginResult{State: idempotency.Replay, Outcome: r.data()}
	case r[0] == pending && (ttl < 0 || uint64(ttl) > r.keep()):
		return idempotency.BeginResult{State: idempotency.Join}
	default:
		return idempotency.BeginResult{State: idempotency.Absent, TakenOver: true}
	}
}
