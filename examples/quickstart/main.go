// Command quickstart is a minimal program with Hopbound: a service that declares the policies of its methods in
// its proto file, its server, and a client.
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
