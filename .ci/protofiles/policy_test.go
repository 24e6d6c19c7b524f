package shop_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	shopv1 "example.com/shop/gen/shop/v1"
	"github.com/hopbound/hopbound/interceptors"
)

// shop fails the first calls.
type shop struct {
	shopv1.UnimplementedShopServiceServer
	failures int
}

func (s *shop) GetPrice(context.Context, *shopv1.GetPriceRequest) (*shopv1.GetPriceResponse, error) {
	if s.failures--; s.failures >= 0 {
		return nil, status.Error(codes.Unavailable, "later")
	}
	return &shopv1.GetPriceResponse{Cents: 99}, nil
}

// TestPolicyOfTheProtoFile makes a call whose first three attempts fail: the proto
// file allows four, and the default three.
func TestPolicyOfTheProtoFile(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	shopv1.RegisterShopServiceServer(server, &shop{failures: 3})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)

	client, err := interceptors.NewClient()
	if err != nil {
		t.Fatal(err)
	}
	creds := grpc.WithTransportCredentials(insecure.NewCredentials())
	conn, err := grpc.NewClient(l.Addr().String(), append(client.DialOptions(), creds)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	price, err := shopv1.NewShopServiceClient(conn).GetPrice(t.Context(), &shopv1.GetPriceRequest{Thing: "tea"})
	if err != nil || price.GetCents() != 99 {
		t.Fatalf("%v, %v", price, err)
	}
}
