// Package idempotency holds what makes a write happen once, however often it is
// sent: keys, fingerprints, outcomes, and the stores that keep them.
//
// A call that carries a [Key] may be repeated, whatever its method says: the
// server can tell that the attempts are one write. The key travels in the
// idempotency-key header, as in the IETF draft of that name.
//
// A [Store] knows a write by its [ID] and keeps what it came to. Who asks first
// runs it, under a lease; who asks meanwhile waits; who asks later is given the
// outcome. The states and the moves between them are in the comment of [Store],
// and package storetest checks that a store keeps to them. A lease that has run
// out is taken over with a higher fence, so that a zombie completes nothing, and
// whoever repeats a step after a lost answer gets the same one.
//
// An [Outcome] is kept as bytes that say what they are, with a checksum or
// sealed by a [KeyRing]. A [Fingerprint] tells whether two requests with one key
// are the same.
//
// # What may enter
//
// The package knows no transport. Putting keys on calls, and claims around
// handlers, is the business of package interceptors.
package idempotency
