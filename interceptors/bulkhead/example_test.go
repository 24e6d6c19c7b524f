package bulkhead_test

import (
	"fmt"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/bulkhead"
	"google.golang.org/grpc"
)

// At a server, a bulkhead belongs after Hopbound, whose deadlines it needs.
func Example() {
	server, err := interceptors.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	places, err := bulkhead.New(64, bulkhead.Queue(128), bulkhead.MaxWait(time.Second))
	if err != nil {
		fmt.Println(err)
		return
	}
	srv := grpc.NewServer(append(server.ServerOptions(), places.ServerOptions()...)...)
	defer srv.Stop()
	fmt.Println("at most 64 calls run, and 128 wait")
	// Output: at most 64 calls run, and 128 wait
}
