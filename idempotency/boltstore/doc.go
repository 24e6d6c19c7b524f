// Package boltstore keeps the records of writes in one file, by bbolt, for a
// server that has no database: what it keeps survives a restart, a crash of the
// process and, as far as the disk keeps what was synced to it, one of the
// machine.
//
//	store, err := boltstore.Open("outcomes.db")
//	defer store.Close()
//	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
//
// The file is one process's alone: another that opens it fails, after a second.
// Steps that are taken at the same time are written together, with one sync of
// the disk for all of them.
//
// Time is that of the machine's clock when the file was opened, and passes with
// the monotonic clock from then on. It never goes back: if the clock was ahead
// when the file was last written to, time stands still until the clock has caught
// up, or the file's process has run for long enough.
//
// A damaged file is found out where a record cannot be read, and not where a page
// of bbolt's is lost: keep the file on a disk that can be trusted.
//
// # What may enter
//
// The package knows bbolt and the records of package idempotency, and nothing of
// gRPC.
package boltstore
