// Package redisstore keeps the records of writes in Redis, 7 or later: one
// server, one behind Sentinel, or a Cluster.
//
//	client, err := rueidis.NewClient(redisstore.ClientOption(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}))
//	store, err := redisstore.New(client)
//	err = store.Check(ctx)
//	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
//
// Each step is one script and one round trip. Times are those of Redis's clock.
// A record and the fences of those that share its hash tag are in one slot.
// Whoever waits for a record looks at it now and then, at a pace that grows with
// the wait, and of all who do so in a process one.
//
// # What Redis may lose
//
// Redis is not a database that keeps what it has said. A failover, by Sentinel or
// in a Cluster, promotes a replica that may not have got the last writes: a claim
// that is lost lets another handler run the same write, and an outcome that is
// lost lets it run again, even if Redis has acknowledged it, and in spite of WAIT.
// A restart loses what was not in the append-only file yet, which is up to a
// second unless appendfsync is always. Where that is not good enough, as for
// payments, use package pgstore with transactions, or have the handler look up its
// effect by the key.
//
// Redis must not evict records: set maxmemory-policy to noeviction, so that a
// full server refuses new keys ([idempotency.ErrFull]) rather than to forget old
// ones; outcomes of what was claimed before it still takes. [Store.Check] finds out.
//
// # What may enter
//
// The package knows Redis by rueidis and the records by package idempotency, and
// nothing of gRPC.
package redisstore
