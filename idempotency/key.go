package idempotency

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Header is the metadata key under which a [Key] travels.
const Header = "idempotency-key"

// MaxKeyLen is the length of the longest key, in bytes.
const MaxKeyLen = 255

// Errors that [Key.Validate] wraps.
var (
	ErrKeyLength    = errors.New("idempotency key must have 1 to 255 characters")
	ErrKeyCharacter = errors.New("idempotency key must be printable ASCII without commas and double quotes, and neither begin nor end with a space")
)

// Key names one write: all attempts of it carry the same key, and no other
// write does. The zero value is no key.
type Key string

// NewKey returns a new random key: a UUID of version 7 (RFC 9562), which sorts
// by the time it was made at, to the millisecond. It is safe for concurrent
// use.
func NewKey() Key {
	var uuid [16]byte
	_, _ = rand.Read(uuid[6:]) // never fails: it ends the program first
	var millis [8]byte
	binary.BigEndian.PutUint64(millis[:], uint64(time.Now().UnixMilli()))
	copy(uuid[:6], millis[2:])
	return newUUID(uuid, 7)
}

// newUUID writes a UUID of a version.
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

// Hash returns a short hash of the key, for logs and traces, which must not have
// keys. Whoever guesses a key can check the guess by its hash.
func (k Key) Hash() string {
	sum := hash("key", string(k))
	return hex.EncodeToString(sum[:8])
}

// ParseKey reads the value of the header [Header]: a key as it is, or in double quotes as in
// the IETF's Idempotency-Key draft, without escapes or parameters. Both are the same key. A
// comma is an error, because two values that a proxy has joined are not a key.
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

// Validate returns an error that wraps [ErrKeyLength] or [ErrKeyCharacter] if
// the key cannot be sent.
func (k Key) Validate() error {
	if k == "" || len(k) > MaxKeyLen {
		return fmt.Errorf("%w, not %d", ErrKeyLength, len(k))
	}
	for i := range len(k) {
		space := k[i] == ' ' && (i == 0 || i == len(k)-1)
		if k[i] < ' ' || k[i] > '~' || k[i] == '"' || k[i] == ',' || space {
			return fmt.Errorf("%w: character %q at %d", ErrKeyCharacter, k[i], i)
		}
	}
	return nil
}

type keyContext struct{}

// WithKey returns a context whose calls carry the key. A call with a key that
// is not valid fails before it is sent, with INVALID_ARGUMENT and the reason
// KEY_INVALID.
//
// Use it around the calls that make up one write, and make the key once,
// outside of any loop that repeats them.
func WithKey(ctx context.Context, key Key) context.Context {
	return context.WithValue(ctx, keyContext{}, key)
}

// FromContext returns the key set by [WithKey] or, in a handler that runs under
// a key, that key. It returns false if there is none.
func FromContext(ctx context.Context) (Key, bool) {
	if key, ok := ctx.Value(keyContext{}).(Key); ok {
		return key, true
	}
	if r := runningFrom(ctx); r != nil {
		return r.Key, true
	}
	return "", false
}
