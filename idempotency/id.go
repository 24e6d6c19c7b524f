package idempotency

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// NewID returns the ID of a write: a hash of the tenant or caller that the key belongs to, the full
// method and the key. The ID does not reveal the key.
func NewID(tenant, fullMethod string, key Key) ID {
	return ID(hash("id", tenant, fullMethod, string(key)))
}

// String returns the ID as text that can be part of any store's key.
func (id ID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// Child returns the child key of a call that a handler makes while it runs the write with this ID
// and key: a hash of the ID, the key, the callee's method and the step, as a UUID of version 8 (RFC
// 9562). If the parent runs again, it makes the same child keys.
//
// Without a secret, anybody who knows the tenant, the method and the key of the parent, such as its
// caller, can compute the child key. With a secret, the child key is an HMAC of the hash. See
// [ChildSecret].
func (id ID) Child(key Key, fullMethod, step string, secret []byte) Key {
	sum := hash("child", string(id[:]), string(key), fullMethod, step)
	if len(secret) > 0 {
		mac := hmac.New(sha256.New, secret)
		mac.Write(sum[:])
		mac.Sum(sum[:0])
	}
	return newUUID([16]byte(sum[:16]), 8)
}

// hash returns the hash of parts, each prefixed with its length, so that no two lists of parts have
// the same input.
func hash(parts ...string) [sha256.Size]byte {
	var buf []byte
	for _, p := range parts {
		buf = binary.BigEndian.AppendUint64(buf, uint64(len(p)))
		buf = append(buf, p...)
	}
	return sha256.Sum256(buf)
}
