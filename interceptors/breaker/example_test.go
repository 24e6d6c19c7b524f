package breaker_test

import (
	"fmt"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/breaker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A breaker belongs after Hopbound's client, so that each attempt passes it.
func Example() {
	client, err := interceptors.NewClient()
	if err != nil {
		fmt.Println(err)
		return
	}
	breakers, err := breaker.New(
		breaker.ConsecutiveFailures(5),
		breaker.FailureRate(0.5, 20),
		breaker.SlowCalls(time.Second, 0.8, 20),
		breaker.OpenFor(5*time.Second),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient("dns:///stock:443", append(append(client.DialOptions(), breakers.DialOptions()...),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close() }()
	fmt.Println(breakers.State(conn.CanonicalTarget(), "/stock.v1.Stock/Take"))
	// Output: closed
}
