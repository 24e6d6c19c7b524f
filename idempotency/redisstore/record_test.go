package redisstore

import (
	"errors"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
)

// Whatever Redis answers is understood or corrupt.
func FuzzAnswer(f *testing.F) {
	claim := idempotency.Claim{Owner: "owner", Fingerprint: idempotency.Fingerprint{Schema: "schema", Sum: [32]byte{1}}}
	rest := fencePart(7) + fingerprintPart(claim.Fingerprint) + ownerPart(claim.Owner)
	for _, answer := range []string{"c" + fencePart(1), "t" + fencePart(2), "p" + rest, "d" + rest + "outcome", ""} {
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		begun, err := readBegun(answer, &claim)
		if (err == nil) != (begun.State != 0) {
			t.Errorf("%q is %+v, %v", answer, begun, err)
		}
		if err != nil && !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("%q: %v", answer, err)
		}
	})
}
