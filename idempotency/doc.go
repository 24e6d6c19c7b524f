// Package idempotency has keys, fingerprints, outcomes and the stores of
// outcomes, by which a server answers all repeats of a write with one outcome.
//
// A [Key] identifies one write: a server with a store recognises calls with the
// same key as repeats. ADR 0018 says when a client may retry a call because of
// its key. The key is the value of the idempotency-key header, as in the IETF
// draft of that name.
//
// A [Store] has one record for each write, under its [ID]. The first caller runs
// the write, under a lease or in a transaction. Callers wait while it runs, and
// get the outcome when it is done. The comment of [Store] has the states and
// their transitions, which package storetest checks. A run that takes over an
// expired lease has a higher fence, so that the run before it cannot complete. A
// step that is repeated after a lost answer gets the same answer.
//
// An [Outcome] is stored in a tagged format, with a checksum or sealed by a
// [KeyRing]. A [Fingerprint] tells whether two requests with one key are the
// same.
//
// # What may enter
//
// The package makes and serves no calls. Package interceptors puts keys on calls
// and claims around handlers.
package idempotency
