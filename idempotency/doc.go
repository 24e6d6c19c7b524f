// Package idempotency contains the keys, fingerprints, outcomes and stores with which a server answers
// all repeats of a write with one outcome.
//
// A [Key] identifies one write: a server with a store recognises calls with the same key as repeats.
// ADR 0018 says when a client may retry a call because of its key. The key is the value of the
// idempotency-key header, as in the IETF draft of that name.
//
// A [Store] has one record for each write, under the write's [ID]. The first caller runs the write,
// under a lease or in a transaction. Other callers wait while the write runs, and get the outcome when
// it is done. The comment of [Store] has the states of a record and their transitions. A run that
// takes over an expired lease has a higher fence, so that the earlier run cannot complete. A caller
// that repeats a step after a lost answer gets the same answer.
//
// [StoredRecord] has the rules for each step. The memory store, boltstore and sqlitestore use it.
// redisstore and pgstore have the same rules in Lua and SQL, because each of their steps must be one
// round trip. The linearizability check of package storetest compares all stores with one model.
//
// An [Outcome] is stored in a tagged format, with a checksum or sealed by a [KeyRing]. A [Fingerprint]
// shows that a key was used for two different requests.
//
// # What may be added
//
// The package makes and serves no calls, and imports no database driver. Stores other than [Memory]
// are modules of their own. Package interceptors puts keys on calls and runs handlers under claims.
package idempotency
