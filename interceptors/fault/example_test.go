package fault_test

import (
	"fmt"
	"os"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/fault"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// Requests that carry the guard find the stock slow, and every tenth of their calls fails. Other requests are not
// affected.
func Example() {
	client, err := interceptors.NewClient()
	if err != nil {
		fmt.Println(err)
		return
	}
	guard := os.Getenv("FAULT_GUARD")
	faults, err := fault.New([]fault.Rule{
		{Name: "slow stock", Methods: []string{"/stock.v1.Stock/*"}, Share: 1, Guard: guard, Latency: 100 * time.Millisecond, Jitter: 50 * time.Millisecond},
		{Name: "failing stock", Methods: []string{"/stock.v1.Stock/*"}, Share: 0.1, Guard: guard, Code: codes.Unavailable},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	conn, err := grpc.NewClient("dns:///stock:443", append(append(client.DialOptions(), faults.DialOptions()...),
		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()

	fmt.Println(faults.Enabled()) // until Enable
	// Output: false
}
