package idempotency

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
)

// NewID returns the ID of a write: a hash of the tenant or caller whose key it
// is, the full method and the key. No key can be read off it.
func NewID(tenant, fullMethod string, key Key) ID {
	return ID(hash("id", tenant, fullMethod, string(key)))
}

// String returns the ID as text that can be part of any store's key.
func (id ID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// Child returns the key of a write that a handler makes while it runs the write
// named by id: a hash of both, the callee's method and the step, as a UUID of
// version 8 (RFC 9562). A parent that runs again makes the same keys.
//
// Without a secret, whoever knows the tenant, the method and the key of the parent can compute
// it, such as its caller. With a secret, it is an HMAC of the hash. See [ChildSecret].
func (id ID) Child(key Key, fullMethod, step string, secret []byte) Key {
	sum := hash("child", string(id[:]), string(key), fullMethod, step)
	if len(secret) > 0 {
		mac := hmac.New(sha256.New, secret)
		mac.Write(sum[:])
		mac.Sum(sum[:0])
	}
	return newUUID([16]byte(sum[:16]), 8)
}

// hash returns the hash of parts, each with its length before it, so that no
// two lists of parts look the same.
func hash(parts ...string) [sha256.Size]byte {
	var buf []byte
	for _, p := range parts {
		buf = binary.BigEndian.AppendUint64(buf, uint64(len(p)))
		buf = append(buf, p...)
	}
	return sha256.Sum256(buf)
}
