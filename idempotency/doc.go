// Package idempotency holds the keys by which a write is known, however often
// it is sent.
//
// A call that carries a [Key] may be repeated, whatever its method says: the
// server can tell that the attempts are one write. The key travels in the
// idempotency-key header, as in the IETF draft of that name.
//
// The package knows keys and contexts only; putting them on calls is the
// business of package interceptors.
package idempotency
