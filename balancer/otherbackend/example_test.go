package otherbackend_test

import (
	"fmt"

	_ "github.com/hopbound/hopbound/balancer/otherbackend"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Import the package, and name the policy in the service config. A service config
// that the resolver hands out must name it too.
func Example() {
	client, err := interceptors.NewClient()
	if err != nil {
		fmt.Println(err)
		return
	}
	balancing := grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"hopbound_other_backend": {"childPolicy": [{"round_robin": {}}]}}]}`)
	creds := grpc.WithTransportCredentials(insecure.NewCredentials())
	conn, err := grpc.NewClient("dns:///orders:443", append(client.DialOptions(), balancing, creds)...)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(conn.Target(), conn.Close())
	// Output: dns:///orders:443 <nil>
}
