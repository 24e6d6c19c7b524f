// Package rollout is a chain of services whose modes are set by environment variables. docs/rollout.md describes
// such a rollout, and the test of this package follows it.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"net"

	chainv1 "github.com/hopbound/hopbound/examples/chain/proto/hopbound/examples/chain/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func mode(getenv func(string) string, name string) (mode interceptors.Mode, installed bool, err error) {
	switch value := getenv(name); value {
	case "":
		return 0, false, nil
	case "observe":
		return interceptors.Observe, true, nil
	case "enforce":
		return interceptors.Enforce, true, nil
	default:
		return 0, false, fmt.Errorf("%s is %q; it must be observe or enforce", name, value)
	}
}

// retries is the retry policy of grpc-go that the services had before Hopbound.
const retries = `{"methodConfig": [{
	"name": [{"service": "hopbound.examples.chain.v1.HopService", "method": "Pass"}],
	"retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1, "retryableStatusCodes": ["UNAVAILABLE"]}
}]}`

// service is one hop of the chain.
type service struct {
	client *interceptors.Client // nil if it is not installed
	server *interceptors.Server // nil if it is not installed
	addr   string
	stop   func()
}

// start starts a hop. handler receives a client for the next hop, whose address is next. At the last hop, next
// is empty, and the handler must not use the client.
func start(getenv func(string) string, meters metric.MeterProvider, next string, handler func(chainv1.HopServiceClient) chainv1.HopServiceServer) (*service, error) {
	s := &service{}
	dial := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(retries)}
	var serve []grpc.ServerOption
	serverMode, serverInstalled, serverErr := mode(getenv, "HOPBOUND_SERVER")
	clientMode, clientInstalled, clientErr := mode(getenv, "HOPBOUND_CLIENT")
	if err := errors.Join(serverErr, clientErr); err != nil {
		return nil, err
	}
	if serverInstalled {
		store := idempotency.NewMemory()
		server, err := interceptors.NewServer(
			interceptors.WithMode(serverMode),
			interceptors.WithMeterProvider(meters),
			interceptors.WithIdempotency(store),
		)
		if err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
		s.server = server
		serve = append(serve, server.ServerOptions()...)
	}
	if clientInstalled {
		client, err := interceptors.NewClient(
			interceptors.WithMode(clientMode),
			interceptors.WithMeterProvider(meters),
		)
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		s.client = client
		dial = append(dial, client.DialOptions()...)
	}
	conn, err := grpc.NewClient("passthrough:///"+next, dial...)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen: %w", errors.Join(err, conn.Close()))
	}
	srv := grpc.NewServer(serve...)
	chainv1.RegisterHopServiceServer(srv, handler(chainv1.NewHopServiceClient(conn)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(listener)
	}()
	s.addr = listener.Addr().String()
	s.stop = func() {
		srv.Stop()
		<-done
		_ = conn.Close()
	}
	return s, nil
}

// observe switches back to Observe mode, without a new release.
func observe(client *interceptors.Client, server *interceptors.Server) error {
	err := errors.Join(
		client.SetMode(interceptors.Observe),
		server.SetMode(interceptors.Observe, "/hopbound.examples.chain.v1.HopService/Order"),
	)
	return err
}
