package idempotency

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// Header is the metadata key of a [Key].
const Header = "idempotency-key"

// Key names one write. All attempts of a write carry the same key, and no other write carries it. The
// zero value is no key.
type Key string

// NewKey returns a new random key: a UUID of version 7 (RFC 9562). Keys sort by the millisecond in
// which they were made. NewKey is safe for concurrent use.
func NewKey() Key {
	var uuid [16]byte
	_, _ = rand.Read(uuid[6:]) // never fails: crypto/rand ends the program instead
	var millis [8]byte
	binary.BigEndian.PutUint64(millis[:], uint64(time.Now().UnixMilli()))
	copy(uuid[:6], millis[2:])
	return newUUID(uuid, 7)
}

// newUUID sets the version and the variant of a UUID, and returns its text.
func newUUID(uuid [16]byte, version byte) Key {
	uuid[6] = uuid[6]&0x0f | version<<4
	uuid[8] = uuid[8]&0x3f | 0x80
	var text [36]byte
	at := 0
	for i, part := range [][]byte{uuid[:4], uuid[4:6], uuid[6:8], uuid[8:10], uuid[10:]} {
		if i > 0 {
			text[at] = '-'
			at++
		}
		at += hex.Encode(text[at:], part)
	}
	return Key(text[:])
}

// Hash returns a short hash of the key, for logs and traces, which must not contain keys. It hides
// only keys that cannot be guessed: anybody can compute the hash of a guess.
func (k Key) Hash() string {
	sum := hash("key", string(k))
	return hex.EncodeToString(sum[:8])
}

// ParseKey reads the value of the header [Header]. The value is a key, or the same key in double
// quotes as in the IETF's Idempotency-Key draft, without escapes or parameters. A comma is an error,
// because a proxy may have joined two values with it. The error is that of [Key.Validate].
func ParseKey(value string) (Key, error) {
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	key := Key(value)
	if err := key.Validate(); err != nil {
		return "", err
	}
	return key, nil
}

// Validate returns an error unless the key can be sent: it must have 1 to 255 characters of printable
// ASCII, contain no comma and no double quote, and neither begin nor end with a space.
func (k Key) Validate() error {
	const maxLen = 255
	if k == "" || len(k) > maxLen {
		return fmt.Errorf("idempotency key must have 1 to %d characters, not %d", maxLen, len(k))
	}
	for i := range len(k) {
		space := k[i] == ' ' && (i == 0 || i == len(k)-1)
		if k[i] < ' ' || k[i] > '~' || k[i] == '"' || k[i] == ',' || space {
			return fmt.Errorf("idempotency key must be printable ASCII without commas and double quotes, and neither begin nor end with a space: character %q at %d", k[i], i)
		}
	}
	return nil
}

type keyContext struct{}

// WithKey returns a context whose calls carry the key. A call with an invalid key fails before it is
// sent, with INVALID_ARGUMENT and the reason KEY_INVALID.
//
// Use the context for the calls that make up one write, and make the key once, outside of any retry
// loop.
func WithKey(ctx context.Context, key Key) context.Context {
	return context.WithValue(ctx, keyContext{}, key)
}

// FromContext returns the key set by [WithKey] or else, in a handler that runs under a key, the
// handler's key. It returns false if there is neither.
func FromContext(ctx context.Context) (Key, bool) {
	if key, ok := ctx.Value(keyContext{}).(Key); ok {
		return key, true
	}
	if r := runningFrom(ctx); r != nil {
		return r.Key, true
	}
	return "", false
}
