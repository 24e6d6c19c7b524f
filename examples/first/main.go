// Command first is the smallest use of Hopbound: a server and a client, and a
// call that is repeated once because the server is not ready at first.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"sync/atomic"
	"time"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	service := &service{}
	target, stop, err := serve(ctx, service)
	if err != nil {
		return err
	}
	defer stop()
	conn, err := connect(target)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()

	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err = chainv1.NewHopServiceClient(conn).Pass(ctx, &chainv1.PassRequest{})
	fmt.Fprintf(os.Stdout, "%d attempts, error: %v\n", service.calls.Load(), err)
	return err
}

// serve runs the service on a free loopback port.
func serve(ctx context.Context, service *service) (target string, stop func(), err error) {
	server, err := interceptors.NewServer()
	if err != nil {
		return "", nil, err
	}
	srv := grpc.NewServer(server.ServerOptions()...)
	chainv1.RegisterHopServiceServer(srv, service)

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	go func() { _ = srv.Serve(listener) }()
	return listener.Addr().String(), srv.Stop, nil
}

func connect(target string) (*grpc.ClientConn, error) {
	client, err := interceptors.NewClient()
	if err != nil {
		return nil, err
	}
	creds := grpc.WithTransportCredentials(insecure.NewCredentials())
	return grpc.NewClient(target, append(client.DialOptions(), creds)...)
}

// service fails its first call.
type service struct {
	chainv1.UnimplementedHopServiceServer
	calls atomic.Int64
}

func (s *service) Pass(context.Context, *chainv1.PassRequest) (*chainv1.PassResponse, error) {
	if s.calls.Add(1) == 1 {
		return nil, status.Error(codes.Unavailable, "warming up")
	}
	return &chainv1.PassResponse{}, nil
}
