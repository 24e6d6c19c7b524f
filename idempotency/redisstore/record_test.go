package redisstore

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
)

// appendRecord appends a pending record, as the script for claims makes it.
func appendRecord(b []byte, fence uint64, claim *idempotency.Claim) []byte {
	c := appendClaim(nil, claim)
	b = binary.BigEndian.AppendUint64(b, pending<<56|fence)
	b = append(b, c[:attemptsAt-ownerAt]...)
	b = append(b, 0, 1, 0, 0, 0, 0, 0, 1)
	return append(b, c[attemptsAt-ownerAt:]...)
}

// Any value is either corrupt or a record for which every step has a result.
func FuzzRecord(f *testing.F) {
	claim := idempotency.Claim{Owner: "owner", Fingerprint: idempotency.Fingerprint{Schema: "schema", Sum: [32]byte{1}}}
	record := string(appendRecord(nil, 7, &claim))
	for _, r := range []string{record, "D" + record[1:], "D" + record[1:] + "outcome", "R" + record[1:] + "checkpoint", record + "checkpoint", record[1:], "D", ""} {
		f.Add([]byte(r))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		var result idempotency.BeginResult
		r, err := parse(record)
		if err == nil {
			result = r.ask(&claim)
			r.inspect(claim.ID, 1, 1)
		}
		if (err == nil) != (result.State != 0) {
			t.Errorf("%q is %+v, %v", record, result, err)
		}
		if err != nil && !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("%q: %v", record, err)
		}
	})
}
