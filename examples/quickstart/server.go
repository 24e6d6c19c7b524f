package main

import (
	"context"
	"net"
	"sync/atomic"

	pricesv1 "github.com/hopbound/hopbound/examples/quickstart/proto/hopbound/examples/quickstart/v1"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// prices fails its first two calls.
type prices struct {
	pricesv1.UnimplementedPriceServiceServer
	calls atomic.Int64
}

func (p *prices) GetPrice(context.Context, *pricesv1.GetPriceRequest) (*pricesv1.GetPriceResponse, error) {
	if p.calls.Add(1) <= 2 {
		return nil, status.Error(codes.Unavailable, "not ready yet")
	}
	return &pricesv1.GetPriceResponse{Cents: 450}, nil
}

func (p *prices) WatchPrices(_ *pricesv1.WatchPricesRequest, stream grpc.ServerStreamingServer[pricesv1.WatchPricesResponse]) error {
	for _, cents := range []int64{450, 455, 440} {
		if err := stream.Send(&pricesv1.WatchPricesResponse{Cents: cents}); err != nil {
			return err
		}
	}
	return nil
}

// serve runs the service on a free loopback port until stop is called.
func serve(ctx context.Context) (target string, stop func(), err error) {
	server, err := interceptors.NewServer()
	if err != nil {
		return "", nil, err
	}
	srv := grpc.NewServer(server.ServerOptions()...)
	pricesv1.RegisterPriceServiceServer(srv, &prices{})

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	go func() { _ = srv.Serve(listener) }()
	return listener.Addr().String(), srv.Stop, nil
}
