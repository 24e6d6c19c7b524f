package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	pricesv1 "github.com/hopbound/hopbound/examples/quickstart/proto/hopbound/examples/quickstart/v1"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func connect(target string) (*grpc.ClientConn, error) {
	client, err := interceptors.NewClient()
	if err != nil {
		return nil, err
	}
	creds := grpc.WithTransportCredentials(insecure.NewCredentials())
	return grpc.NewClient(target, append(client.DialOptions(), creds)...)
}

// ask gets a price and then watches its changes. The proto file sets the timeouts, the retries and the hedges.
func ask(ctx context.Context, conn *grpc.ClientConn, out io.Writer) error {
	client := pricesv1.NewPriceServiceClient(conn)
	price, err := client.GetPrice(ctx, &pricesv1.GetPriceRequest{Thing: "coffee"})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "coffee: %d cents, though the service was down twice\n", price.GetCents())

	stream, err := client.WatchPrices(ctx, &pricesv1.WatchPricesRequest{Thing: "coffee"})
	if err != nil {
		return err
	}
	for {
		change, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "coffee: now %d cents\n", change.GetCents())
	}
}
