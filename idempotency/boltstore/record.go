package boltstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	bolt "go.etcd.io/bbolt"
)

// On disk, a record consists of a version, the fields in order, a checksum of the version and
// the fields, and the data. The length of a field without a fixed length precedes it. The
// data is encoded by [idempotency.Codec], which adds a checksum. Times are in nanoseconds.
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

// encode returns what is written to disk.
func encode(r *idempotency.StoredRecord) []byte {
	const most = 224 // of most records without their data
	dst := append(make([]byte, 0, most+len(r.Data)), version, 0)
	if r.Done {
		dst[1] |= flagDone
	}
	if r.Effect {
		dst[1] |= flagEffect
	}
	dst = binary.BigEndian.AppendUint64(dst, r.Fence)
	for _, number := range [...]int64{int64(r.Until), int64(r.Keep), int64(r.Created), int64(r.Attempts)} {
		dst = binary.BigEndian.AppendUint64(dst, uint64(number)) //nolint:gosec // parse reverses it
	}
	for _, text := range [...]string{r.Owner, r.Method, r.KeyHash, r.Fingerprint.Schema} {
		dst = binary.AppendUvarint(dst, uint64(len(text)))
		dst = append(dst, text...)
	}
	dst = append(dst, r.Fingerprint.Sum[:]...)
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
	return append(dst, r.Data...)
}

// parse reads what encode has written. The data of the record is part of raw. An error wraps
// [idempotency.ErrCorrupt].
func parse(raw []byte) (*idempotency.StoredRecord, error) {
	r, err := parseRecord(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", idempotency.ErrCorrupt, err)
	}
	return r, nil
}

func parseRecord(raw []byte) (*idempotency.StoredRecord, error) {
	const fixed = 2 + 5*8
	if len(raw) < fixed {
		return nil, errShort
	}
	if raw[0] != version || raw[1] > flagDone|flagEffect {
		return nil, fmt.Errorf("it begins with %x", raw[:2])
	}
	number := func(at int) int64 { return int64(binary.BigEndian.Uint64(raw[at:])) } //nolint:gosec // it reverses encode
	r := &idempotency.StoredRecord{
		Done:     raw[1]&flagDone != 0,
		Effect:   raw[1]&flagEffect != 0,
		Fence:    binary.BigEndian.Uint64(raw[2:]),
		Until:    time.Duration(number(10)),
		Keep:     time.Duration(number(18)),
		Created:  time.Duration(number(26)),
		Attempts: int(number(34)),
	}
	rest := raw[fixed:]
	for _, text := range [...]*string{&r.Owner, &r.Method, &r.KeyHash, &r.Fingerprint.Schema} {
		n, size := binary.Uvarint(rest)
		if size <= 0 || n > uint64(len(rest)-size) { //nolint:gosec // it is not negative
			return nil, errShort
		}
		*text = string(rest[size : size+int(n)]) //nolint:gosec // it is at most len(rest)
		rest = rest[size+int(n):]                //nolint:gosec // likewise
	}
	if len(rest) < len(r.Fingerprint.Sum)+crc32.Size {
		return nil, errShort
	}
	rest = rest[copy(r.Fingerprint.Sum[:], rest):]
	if crc32.Checksum(raw[:len(raw)-len(rest)], castagnoli) != binary.BigEndian.Uint32(rest) {
		return nil, errors.New("its checksum is wrong")
	}
	r.Data = rest[crc32.Size:]
	return r, nil
}

// read reads the record of an ID, which is the zero value if there is none. The record may
// outlive the transaction.
func read(records *bolt.Bucket, id idempotency.ID) (*idempotency.StoredRecord, error) {
	raw := records.Get(id[:])
	if raw == nil {
		return &idempotency.StoredRecord{}, nil
	}
	r, err := parse(raw)
	if err == nil {
		r.Data = bytes.Clone(r.Data)
	}
	return r, err
}
