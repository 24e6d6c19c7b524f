package idempotency

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
)

var (
	errNoKeys    = errors.New("it is sealed, and the codec has no keys")
	errNotSealed = errors.New("it is not sealed, and the codec has keys")
	errTooShort  = errors.New("it is too short")
	errChecksum  = errors.New("its checksum is wrong")
)

// sealedExtra is about how many bytes sealing adds.
const sealedExtra = 64

// KeyRing seals outcomes and checkpoints with AES-GCM, so that access to the store alone is not
// enough to read or forge them. Rotate a key in two steps: first add the new key to the rings of all
// servers, then seal with it. Keep the old key until everything that it has sealed has expired. A
// server with a ring cannot read unsealed outcomes: all of them must have expired before a server
// uses its first ring. One key is safe for about four billion outcomes, because nonces are random.
//
// A KeyRing is safe for concurrent use.
type KeyRing struct {
	sealWith string
	keys     map[string]cipher.AEAD
}

// NewKeyRing returns a ring that seals with the key named sealWith, and opens with any of the keys.
// Keys have 16, 24 or 32 bytes, and their names 1 to 255 bytes. It returns the errors of all invalid
// keys, joined.
func NewKeyRing(sealWith string, keys map[string][]byte) (*KeyRing, error) {
	r := &KeyRing{sealWith: sealWith, keys: make(map[string]cipher.AEAD, len(keys))}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		if name == "" || len(name) > 255 {
			errs = append(errs, fmt.Errorf("key %q: the name must have 1 to 255 bytes", name))
			continue
		}
		block, err := aes.NewCipher(keys[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("key %q: %w", name, err))
			continue
		}
		gcm, err := cipher.NewGCM(block)
		errs = append(errs, err)
		r.keys[name] = gcm
	}
	if _, ok := keys[sealWith]; !ok {
		errs = append(errs, fmt.Errorf("key %q, to seal with: missing", sealWith))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r, nil
}

// seal appends the name of the key, a nonce and the sealed body to dst. The body can be opened only
// with the same of.
func (r *KeyRing) seal(dst, of, body []byte) ([]byte, error) {
	gcm := r.keys[r.sealWith]
	dst = append(append(dst, byte(min(len(r.sealWith), 255))), r.sealWith...)
	start := len(dst)
	dst = append(dst, make([]byte, gcm.NonceSize())...)
	nonce := dst[start:]
	_, _ = rand.Read(nonce) // never fails: crypto/rand ends the program instead
	return gcm.Seal(dst, nonce, body, of), nil
}

// open reverses seal.
func (r *KeyRing) open(of, sealed []byte) ([]byte, error) {
	if len(sealed) < 1 || len(sealed) < 1+int(sealed[0]) {
		return nil, errTooShort
	}
	name, rest := string(sealed[1:1+int(sealed[0])]), sealed[1+int(sealed[0]):]
	gcm, ok := r.keys[name]
	if !ok {
		return nil, fmt.Errorf("it is sealed with a key %q that is not on the ring", name)
	}
	if len(rest) < gcm.NonceSize() {
		return nil, errTooShort
	}
	body, err := gcm.Open(nil, rest[:gcm.NonceSize()], rest[gcm.NonceSize():], of)
	if err != nil {
		return nil, fmt.Errorf("sealed with key %q: %w", name, err)
	}
	return body, nil
}
