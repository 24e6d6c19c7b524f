package health_test

import (
	"context"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/interceptors/health"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A server that pings its clients, says NOT_SERVING while its store does not answer, and drains when it stops.
func ExampleServer() {
	ping := func(context.Context) error { return nil } // such as pool.Ping
	server, err := health.NewServer(
		health.WithCheck("store", ping),
		health.LameDuck(time.Millisecond), // in production, as long as load balancers take to notice
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(server.ServerOptions()...)
	server.Register(srv) // after the services

	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Second)
	defer cancel()
	fmt.Println(server.Stop(ctx, srv)) // after SIGTERM
	// Output: <nil>
}

// A client that finds dead connections within 30 seconds, and sends calls only to servers that are SERVING.
func ExampleClient() {
	client, err := health.NewClient(health.DetectWithin(30*time.Second), health.CheckService(""))
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient("dns:///stock:443", append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(conn.Close())
	// Output: <nil>
}
