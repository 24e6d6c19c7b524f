package boltstore

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
)

// Any bytes are either corrupt or a record, which is written as it was read.
func FuzzRecord(f *testing.F) {
	r := &idempotency.StoredRecord{Fence: 7, Until: 1 << 60, Owner: "owner", Method: "/m", KeyHash: "0123", Attempts: 2, Created: 5, Fingerprint: idempotency.Fingerprint{Schema: "schema", Sum: [32]byte{1}}}
	f.Add(encode(r))
	r.Done, r.Data = true, []byte("outcome")
	f.Add(encode(r))
	f.Add([]byte{version, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parse(raw)
		if err != nil {
			if !errors.Is(err, idempotency.ErrCorrupt) {
				t.Errorf("got %v", err)
			}
			return
		}
		again := encode(r)
		if second, err := parse(again); err != nil || !reflect.DeepEqual(r, second) {
			t.Errorf("read %+v, and then %+v, %v", r, second, err)
		}
		if len(again) == len(raw) && !bytes.Equal(again, raw) {
			t.Errorf("%x was written as %x", raw, again)
		}
	})
}
