// Package redisstore keeps the records of writes in Redis 7 or later: in one server, in servers with
// Sentinel, or in a Cluster.
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
// Redis may lose writes that it has acknowledged. A failover, by Sentinel or in a Cluster, promotes a
// replica that may not have received the last writes, in spite of WAIT. If a claim is lost, another
// handler may run the same write at the same time; if an outcome is lost, the write runs again. In
// both cases, [idempotency.TakenOver] is false in the second run. A restart loses the writes that are
// not yet in the append-only file: those of the last second, unless appendfsync is always. If such
// losses are not acceptable, as for payments, use package pgstore with transactions, or make the
// handler look up its effect by the key.
//
// Redis must not evict records. Set maxmemory-policy to noeviction: a full server then refuses new
// keys ([idempotency.ErrFull]), and still accepts the outcomes of the keys that it has. [Store.Check]
// checks the setting.
//
// # What may be added
//
// The package uses rueidis and package idempotency. It makes and serves no calls.
package redisstore
