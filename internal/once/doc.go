// Package once runs a write only once for its idempotency key. [Server.Serve] takes an incoming
// call and its handler, and returns what the caller gets: the result of the handler, or the outcome
// that another call with the key has stored. The states of a record are those of ADR 0012; package
// idempotency defines the stores.
//
// A call goes through these files:
//
//	key.go        reads and checks the key
//	shared.go     waits for another call of this process with the key
//	claim.go      asks the store: run, wait, replay or reject
//	run.go        runs the handler under a lease, and stores the outcome
//	lease.go      renews the lease while the handler runs
//	transact.go   runs the handler in a transaction of the store instead
//	outcome.go    encodes and replays outcomes
//	observe.go    runs each call, and counts what would have been replayed
package once
