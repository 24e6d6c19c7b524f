package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hopbound/hopbound/idempotency"
)

// record is one write: pending, released (without an owner) or done. On disk it is a version,
// its fields in order, those of no fixed length with their length before them, a checksum of
// all that, and the outcome or the checkpoint, which has a checksum of its own.
type record struct {
	done        bool
	effect      bool // a run may have had an effect, and there is no outcome
	fence       uint64
	until       int64 // end of the lease or the retention, in nanoseconds of the store's time
	keep        int64 // how long it is kept after that while there is no outcome, in nanoseconds
	created     int64 // when the first run was claimed, in nanoseconds of the store's time
	attempts    uint64
	owner       string
	method      string
	keyHash     string
	fingerprint idempotency.Fingerprint
	stored      []byte // the outcome or, until it is done, the checkpoint
}

const version = 3

// Bits of the byte after the version.
const (
	flagDone   = 1
	flagEffect = 2
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errShort   = errors.New("it is too short")
)

// due returns when a record may be dropped.
func (r *record) due() int64 {
	if r.done {
		return r.until
	}
	return r.until + r.keep
}

// encode returns what is written to disk.
func (r *record) encode() []byte {
	const most = 224 // of a record without what is stored, mostly
	dst := append(make([]byte, 0, most+len(r.stored)), version, 0)
	if r.done {
		dst[1] |= flagDone
	}
	if r.effect {
		dst[1] |= flagEffect
	}
	dst = binary.BigEndian.AppendUint64(dst, r.fence)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.until))   //nolint:gosec // it is read as it is written
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.keep))    //nolint:gosec // likewise
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.created)) //nolint:gosec // likewise
	dst = binary.BigEndian.AppendUint64(dst, r.attempts)
	for _, text := range [...]string{r.owner, r.method, r.keyHash, r.fingerprint.Schema} {
		dst = binary.AppendUvarint(dst, uint64(len(text)))
		dst = append(dst, text...)
	}
	dst = append(dst, r.fingerprint.Sum[:]...)
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
	return append(dst, r.stored...)
}

// parse reads what encode has written. What is stored is part of raw. An error wraps
// [idempotency.ErrCorrupt].
func parse(raw []byte) (*record, error) {
	r, err := parseRecord(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", idempotency.ErrCorrupt, err)
	}
	return r, nil
}

func parseRecord(raw []byte) (*record, error) {
	const fixed = 2 + 5*8
	if len(raw) < fixed {
		return nil, errShort
	}
	if raw[0] != version || raw[1] > flagDone|flagEffect {
		return nil, fmt.Errorf("it begins with %x", raw[:2])
	}
	r := &record{
		done:   raw[1]&flagDone != 0,
		effect: raw[1]&flagEffect != 0,
		fence:  binary.BigEndian.Uint64(raw[2:]),
		until:  int64(binary.BigEndian.Uint64(raw[10:])), //nolint:gosec // it is read as it is written
		keep:   int64(binary.BigEndian.Uint64(raw[18:])), //nolint:gosec // likewise

		created:  int64(binary.BigEndian.Uint64(raw[26:])), //nolint:gosec // likewise
		attempts: binary.BigEndian.Uint64(raw[34:]),
	}
	rest := raw[fixed:]
	for _, text := range [...]*string{&r.owner, &r.method, &r.keyHash, &r.fingerprint.Schema} {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) { //nolint:gosec // it is not negative
			return nil, errShort
		}
		*text = string(rest[size : size+int(n)]) //nolint:gosec // it is no more than there is
		rest = rest[size+int(n):]                //nolint:gosec // likewise
	}
	if len(rest) < len(r.fingerprint.Sum)+crc32.Size {
		return nil, errShort
	}
	rest = rest[copy(r.fingerprint.Sum[:], rest):]
	if crc32.Checksum(raw[:len(raw)-len(rest)], castagnoli) != binary.BigEndian.Uint32(rest) {
		return nil, errors.New("its checksum is wrong")
	}
	r.stored = rest[crc32.Size:]
	return r, nil
}

// known returns what is known of a record at a time: Absent if whoever asks may claim it,
// or if the record is nil.
func (r *record) known(fingerprint *idempotency.Fingerprint, now int64) idempotency.BeginResult {
	switch {
	case r == nil, r.due() <= now:
		return idempotency.BeginResult{State: idempotency.Absent}
	case fingerprint.Differs(r.fingerprint):
		return idempotency.BeginResult{State: idempotency.Reused}
	case r.done:
		return idempotency.BeginResult{State: idempotency.Replay, Outcome: bytes.Clone(r.stored)}
	case r.owner != "" && r.until > now:
		return idempotency.BeginResult{State: idempotency.Join}
	default:
		return idempotency.BeginResult{State: idempotency.Absent, TakenOver: r.effect || r.owner != ""}
	}
}

// begun returns the answer to a claim of a record: Absent if it is to be claimed anew.
func (r *record) begun(claim *idempotency.Claim, now int64) idempotency.BeginResult {
	if r != nil && !r.done && r.due() > now && r.owner == claim.Owner && !claim.Fingerprint.Differs(r.fingerprint) {
		return r.run()
	}
	return r.known(&claim.Fingerprint, now)
}

// run returns what the owner of a pending record is told.
func (r *record) run() idempotency.BeginResult {
	return idempotency.BeginResult{State: idempotency.Run, Fence: r.fence, TakenOver: r.effect, Checkpoint: bytes.Clone(r.stored)}
}

// owns reports whether a lease is that of the record.
func (r *record) owns(lease idempotency.Lease) bool {
	return r.owner == lease.Owner && r.fence == lease.Fence
}

// left returns for how much longer a record is pending.
func (r *record) left(now int64) time.Duration {
	if r.done || r.owner == "" {
		return 0
	}
	return time.Duration(r.until - now)
}
