package idempotency_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

func ring(t testing.TB, sealWith string, names ...string) *idempotency.KeyRing {
	t.Helper()
	keys := map[string][]byte{}
	for _, name := range names {
		keys[name] = bytes.Repeat([]byte(name[:1]), 32)
	}
	r, err := idempotency.NewKeyRing(sealWith, keys)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOutcomeIsDecodedAsItWasEncoded(t *testing.T) {
	t.Parallel()
	id := idempotency.NewID("tenant", "/m", "key")
	for name, o := range map[string]*idempotency.Outcome{
		"empty":   {},
		"success": {Response: []byte("response"), ResponseType: "a.B", Header: map[string][]string{"h": {"1", "2"}}, Trailer: map[string][]string{"t-bin": {"\x00\xff"}}},
		"failure": {Status: &spb.Status{Code: 5, Message: "none"}},
		"omitted": {ResponseOmitted: true},
	} {
		for kind, codec := range map[string]idempotency.Codec{"plain": {}, "sealed": {Keys: ring(t, "k1", "k1")}} {
			record, err := codec.Encode(id, o)
			if err != nil {
				t.Fatal(err)
			}
			got, err := codec.Decode(id, record)
			if err != nil || !proto.Equal(got.Status, o.Status) {
				t.Fatalf("%s, %s: %v", name, kind, err)
			}
			want := *o
			got.Status, want.Status = nil, nil
			if !reflect.DeepEqual(*got, want) {
				t.Errorf("%s, %s: got %+v, want %+v", name, kind, got, want)
			}
		}
	}
}

// An outcome that was damaged, or encoded for another record, is corrupt.
func TestDamagedOutcomeIsCorrupt(t *testing.T) {
	t.Parallel()
	id := idempotency.NewID("tenant", "/m", "key")
	for kind, codec := range map[string]idempotency.Codec{"plain": {}, "sealed": {Keys: ring(t, "k1", "k1")}} {
		record, err := codec.Encode(id, &idempotency.Outcome{Response: []byte("the response"), ResponseType: "a.B"})
		if err != nil {
			t.Fatal(err)
		}
		corrupt := func(what string, id idempotency.ID, record []byte) {
			if _, err := codec.Decode(id, record); !errors.Is(err, idempotency.ErrCorrupt) {
				t.Errorf("%s, %s: got %v, want that it is corrupt", kind, what, err)
			}
		}
		for bit := range 8 * len(record) {
			damaged := bytes.Clone(record)
			damaged[bit/8] ^= 1 << (bit % 8)
			corrupt("a bit", id, damaged)
		}
		for n := range record {
			corrupt("cut", id, record[:n])
		}
		corrupt("for another", idempotency.NewID("other", "/m", "key"), record)
	}
}

func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	id := idempotency.NewID("tenant", "/m", "key")
	o := &idempotency.Outcome{Response: []byte("secret response")}
	before := idempotency.Codec{Keys: ring(t, "a", "a")}
	record, err := before.Encode(id, o)
	if err != nil || bytes.Contains(record, []byte("secret")) {
		t.Fatalf("%q, %v", record, err)
	}
	if got, err := (idempotency.Codec{Keys: ring(t, "b", "a", "b")}).Decode(id, record); err != nil || string(got.Response) != "secret response" {
		t.Errorf("while both keys are on the ring: %v", err)
	}
	for name, codec := range map[string]idempotency.Codec{"old key gone": {Keys: ring(t, "b", "b")}, "no keys": {}} {
		if _, err := codec.Decode(id, record); !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	plain, err := idempotency.Codec{}.Encode(id, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.Decode(id, plain); !errors.Is(err, idempotency.ErrCorrupt) {
		t.Errorf("a record that is not sealed, where all are: %v", err)
	}
}

func TestKeyRingReturnsAllErrors(t *testing.T) {
	t.Parallel()
	_, err := idempotency.NewKeyRing("none", map[string][]byte{"short": []byte("x"), "": bytes.Repeat([]byte{1}, 16)})
	for _, want := range []string{`"short"`, `key ""`, `"none"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
}

// Any bytes that a store returns are an outcome or an error.
func FuzzOutcome(f *testing.F) {
	id := idempotency.NewID("tenant", "/m", "key")
	plain, sealed := idempotency.Codec{}, idempotency.Codec{Keys: ring(f, "k", "k")}
	for _, codec := range []idempotency.Codec{plain, sealed} {
		record, err := codec.Encode(id, &idempotency.Outcome{Response: []byte("r"), Header: map[string][]string{"h": {"v"}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(record)
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		for _, codec := range []idempotency.Codec{plain, sealed} {
			o, err := codec.Decode(id, record)
			if err != nil {
				if o != nil || !errors.Is(err, idempotency.ErrCorrupt) {
					t.Errorf("%+v and %v", o, err)
				}
				continue
			}
			if _, err := codec.Encode(id, o); err != nil {
				t.Errorf("what was read cannot be written: %v", err)
			}
		}
	})
}

// An outcome is no valid checkpoint, and the checkpoint of one write is none of another write.
func TestCheckpointsAndOutcomesAreNotInterchangeable(t *testing.T) {
	t.Parallel()
	id, other := idempotency.NewID("", "/m", "k"), idempotency.NewID("", "/m", "l")
	var codec idempotency.Codec
	outcome, err := codec.Encode(id, &idempotency.Outcome{})
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, err := codec.EncodeCheckpoint(id, []byte("so far"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := codec.DecodeCheckpoint(id, checkpoint); err != nil || string(got) != "so far" {
		t.Errorf("got %q, %v", got, err)
	}
	for name, read := range map[string]func() error{
		"an outcome as a checkpoint": func() error { _, err := codec.DecodeCheckpoint(id, outcome); return err },
		"a checkpoint as an outcome": func() error { _, err := codec.Decode(id, checkpoint); return err },
		"another's checkpoint":       func() error { _, err := codec.DecodeCheckpoint(other, checkpoint); return err },
	} {
		if err := read(); !errors.Is(err, idempotency.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
