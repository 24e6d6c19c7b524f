package redisstore

import (
	"errors"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
)

// Whatever Redis has for a record is understood or corrupt.
func FuzzRecord(f *testing.F) {
	claim := idempotency.Claim{Owner: "owner", Fingerprint: idempotency.Fingerprint{Schema: "schema", Sum: [32]byte{1}}}
	begin, rest := pendingPart(idempotency.Lease{Owner: claim.Owner, Fence: 7}), claimPart(&claim)
	record := begin + rest[ownerLenBytes+len(claim.Owner):]
	for _, r := range []string{record, "d" + record[1:], "d" + record[1:] + "outcome", record + "outcome", begin, ""} {
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
