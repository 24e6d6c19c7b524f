package redisstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
)

// A record is one value. It has, in this order:
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
//	the rest     the outcome of a done record, the checkpoint of another
//
// Numbers are big-endian. The scripts know where all this is. The time to live that Redis has
// for a pending record is that of its lease and keep together.
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
	leastLen      = methodAt + 1
	beyondFences  = 1 << 53 // where Lua's numbers are not exact any more
	sevenBytes    = 1<<56 - 1
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

// appendClaim appends what the script that claims a record is given: all but its kind, fence,
// attempts and creation time.
func appendClaim(b []byte, claim *idempotency.Claim) []byte {
	b = appendFingerprint(appendOwner(b, claim.Owner), &claim.Fingerprint)
	b = binary.BigEndian.AppendUint64(b, uint64(millis(claim.KeepFor()))) //nolint:gosec // it is not negative, and small
	var keyHash [methodAt - keyHashAt]byte
	_, _ = hex.Decode(keyHash[:], []byte(claim.KeyHash[:min(len(claim.KeyHash), 2*len(keyHash))])) // zeros if it is no hash
	b = append(b, keyHash[:]...)
	method := claim.Method[:min(len(claim.Method), 255)]
	return append(append(b, byte(len(method))), method...) //nolint:gosec // it is no more than 255
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

// record is a record that was read.
type record []byte

// parse checks that a value is a record. An error wraps [idempotency.ErrCorrupt].
func parse(value []byte) (record, error) {
	r := record(value)
	switch {
	case len(r) < leastLen || len(r) < r.head():
		return nil, fmt.Errorf("%w: it is too short", idempotency.ErrCorrupt)
	case r[0] != pending && r[0] != released && r[0] != done:
		return nil, fmt.Errorf("%w: it begins with %d", idempotency.ErrCorrupt, r[0])
	case r.fence() == 0 || r.fence() >= beyondFences:
		return nil, fmt.Errorf("%w: its fence is out of range", idempotency.ErrCorrupt)
	default:
		return r, nil
	}
}

func (r record) head() int     { return leastLen + int(r[methodAt]) }
func (r record) fence() uint64 { return binary.BigEndian.Uint64(r) & sevenBytes }
func (r record) keep() uint64  { return binary.BigEndian.Uint64(r[effectAt:]) & sevenBytes }

// rest returns the outcome or the checkpoint, or nil if it is empty.
func (r record) rest() []byte {
	if rest := r[r.head():]; len(rest) > 0 {
		return rest
	}
	return nil
}

// begun returns what whoever claims a write is told of its record.
func (r record) begun(claim *idempotency.Claim) idempotency.BeginResult {
	const forever = -1
	known := r.known(claim, forever)
	if known.State == idempotency.Join && bytes.Equal(appendOwner(nil, claim.Owner), r[ownerAt:fingerprintAt]) {
		return idempotency.BeginResult{State: idempotency.Run, Fence: r.fence(), TakenOver: r[effectAt] != 0, Checkpoint: r.rest()}
	}
	return known
}

// known returns what is known by a record that lives for some more milliseconds, or forever
// if they are negative.
func (r record) known(claim *idempotency.Claim, lives int64) idempotency.BeginResult {
	fingerprint := appendFingerprint(nil, &claim.Fingerprint)
	sameSchema := bytes.Equal(fingerprint[:sumAt-fingerprintAt], r[fingerprintAt:sumAt])
	switch {
	case sameSchema && !bytes.Equal(fingerprint, r[fingerprintAt:effectAt]):
		return idempotency.BeginResult{State: idempotency.Reused}
	case r[0] == done:
		return idempotency.BeginResult{State: idempotency.Replay, Outcome: r.rest()}
	case r[0] == pending && (lives < 0 || uint64(lives) > r.keep()):
		return idempotency.BeginResult{State: idempotency.Join}
	default:
		return idempotency.BeginResult{State: idempotency.Absent, TakenOver: true}
	}
}
