// Command quickstart is the smallest whole use of Hopbound: a service that says
// in its proto file how it may be called, its server, and a client.
package main

import (
	"context"
	"io"
	"log"
	"os"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	target, stop, err := serve(ctx)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := connect(target)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	return ask(ctx, conn, out)
}
