package redisstore_test

import (
	"context"
	"log"

	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/redis/rueidis"
)

// A server that stores outcomes in Redis. The client's options choose one
// server, Sentinel or a Cluster.
func Example() { //nolint:testableexamples // it needs a server
	client, err := rueidis.NewClient(redisstore.ClientOption(rueidis.ClientOption{
		InitAddress: []string{"redis-0:6379", "redis-1:6379", "redis-2:6379"},
	}))
	if err != nil {
		log.Print(err)
		return
	}
	defer client.Close()
	store, err := redisstore.New(client)
	if err != nil {
		log.Print(err)
		return
	}
	if err := store.Check(context.Background()); err != nil {
		log.Print(err) // such as that Redis evicts keys
	}
	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
	if err != nil {
		log.Print(err)
		return
	}
	_ = server
}
