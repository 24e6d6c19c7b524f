// Package boltstore keeps the records of writes in one bbolt file, for a server that has no database.
// Records survive a restart and a crash of the process. If the disk keeps synced data, they also
// survive a crash of the machine.
//
//	store, err := boltstore.Open("outcomes.db")
//	defer store.Close()
//	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
//
// Only one process can have the file open. Others get [ErrLocked] after a second. Steps that are taken
// at the same time are written together, with one sync of the disk for all of them.
//
// When the file is opened, the store's time is that of the machine's clock, and from then on it
// follows the monotonic clock. It never goes back: if the machine's clock is behind the time of the
// last write when the file is opened, the store's time continues from that write.
//
// Damage to a record is detected, but not the loss of a page of the file: keep the file on a reliable
// disk.
//
// # What may be added
//
// The package uses bbolt and package idempotency. It makes and serves no calls.
package boltstore
