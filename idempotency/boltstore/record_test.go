package boltstore

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
)

// Whatever is read is either what was written or corrupt.
func FuzzRecord(f *testing.F) {
	r := &record{fence: 7, until: 1 << 60, owner: "owner", method: "/m", keyHash: "0123", attempts: 2, created: 5, fingerprint: idempotency.Fingerprint{Schema: "schema", Sum: [32]byte{1}}}
	f.Add(r.encode())
	r.done, r.stored = true, []byte("outcome")
	f.Add(r.encode())
	f.Add([]byte{version, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parse(raw)
		if err != nil {
			if !errors.Is(err, idempotency.ErrCorrupt) {
				t.Errorf("got %v", err)
			}
			return
		}
		again := r.encode()
		if second, err := parse(again); err != nil || !reflect.DeepEqual(r, second) {
			t.Errorf("read %+v, and then %+v, %v", r, second, err)
		}
		if len(again) == len(raw) && !bytes.Equal(again, raw) {
			t.Errorf("%x was written as %x", raw, again)
		}
	})
}
