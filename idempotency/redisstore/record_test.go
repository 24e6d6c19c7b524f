package redisstore

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
)

// Whatever Redis has for a record is understood or corrupt.
func FuzzRecord(f *testing.F) {
	claim := idempotency.Claim{Owner: "owner", Fingerprint: idempotency.Fingerprint{Schema: "schema", Sum: [32]byte{1}}}
	record := string(append(appendLease(nil, &idempotency.Lease{Owner: claim.Owner, Fence: 7}), appendClaim(nil, &claim)[fingerprintAt-ownerAt:]...))
	for _, r := range []string{record, "\x02" + record, "\x02" + record + "outcome", "\x02" + record[1:] + "outcome", record + "outcome", record[1:], "\x02", ""} {
		f.Add([]byte(r))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		begun, err := readRecord(record, &claim)
		if (err == nil) != (begun.State != 0) {
			t.Errorf("%q is %+v, %v", record, begun, err)
		}
		if err != nil && !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("%q: %v", record, err)
		}
	})
}

// slot returns the slot that a Cluster keeps the keys with a hash tag in: CRC-16
// (XMODEM) of it.
func slot(tag string) int {
	var crc uint16
	for _, b := range []byte(tag) {
		crc ^= uint16(b) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			crc <<= 1
			if carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc % 16384)
}

func TestHashTagsSpreadEvenly(t *testing.T) {
	t.Parallel()
	if got := slot("123456789"); got != 0x31c3 { // as the specification of Redis Cluster has it
		t.Fatalf("slot is %x", got)
	}
	begin, _ := newTags("hopbound")
	var found [tags]bool
	for _, key := range begin {
		_, rest, _ := strings.Cut(key, "{")
		tag, _, _ := strings.Cut(rest, "}")
		found[slot(tag)*tags/16384] = true
	}
	if slices.Contains(found[:], false) {
		t.Error("some slots have no tag, and others several")
	}
}
