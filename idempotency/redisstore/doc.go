// Package redisstore keeps the records of writes in Redis, 7 or later: one
// server, one behind Sentinel, or a Cluster.
//
//	client, err := rueidis.NewClient(redisstore.ClientOption(rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}))
//	store, err := redisstore.New(client)
//	err = store.Check(ctx)
//	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
//
// Each step is one script and one round trip. Times are those of Redis's clock. A record is one key.
// Calls that wait poll the record, at intervals that grow with the wait. One call of each process
// polls for all that wait for the same record.
//
// # What Redis may lose
//
// Redis may lose writes that it has acknowledged. A failover, by Sentinel or in a
// Cluster, promotes a replica that may not have received the last writes, in spite
// of WAIT. If a claim is lost, another handler may run the same write; if an
// outcome is lost, it runs again. [idempotency.TakenOver] is then false. A restart
// loses what is not yet in the append-only file: the last second, unless appendfsync is always. If
// this is not acceptable, as for payments, use package pgstore with transactions, or make the handler
// look up its effect by the key.
//
// Redis must not evict records: set maxmemory-policy to noeviction, so that a
// full server refuses new keys ([idempotency.ErrFull]) and evicts none. It still
// accepts outcomes of keys that it has. [Store.Check] checks the setting.
//
// # What may be added
//
// The package uses rueidis and package idempotency. It makes and serves no calls.
package redisstore
