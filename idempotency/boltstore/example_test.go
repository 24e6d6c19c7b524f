package boltstore_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hopbound/hopbound/idempotency/boltstore"
	"github.com/hopbound/hopbound/interceptors"
)

// A server that keeps outcomes in a file.
func Example() {
	dir, err := os.MkdirTemp("", "outcomes")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	store, err := boltstore.Open(filepath.Join(dir, "outcomes.db"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	_, err = interceptors.NewServer(interceptors.WithIdempotency(store))
	fmt.Println(err)
	// Output: <nil>
}
