// Command gateway serves a gRPC service as HTTP and JSON with grpc-gateway. Each HTTP request is the root of its calls: it
// has one deadline, one retry budget, and the idempotency key that its caller has sent.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/hophttp"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to serve HTTP on")
	bank := flag.String("bank", "127.0.0.1:8081", "address of the bank's gRPC server")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, *listen, *bank)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen, bank string) error {
	client, err := interceptors.NewClient()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(bank, append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	handler, err := newGateway(conn)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: listen, Handler: handler, ReadHeaderTimeout: time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// newGateway returns the handler of all HTTP requests.
func newGateway(conn *grpc.ClientConn) (http.Handler, error) {
	mux := runtime.NewServeMux(gatewayOptions()...)
	if err := registerBank(mux, paymentsv1.NewBankServiceClient(conn)); err != nil {
		return nil, err
	}
	server, err := interceptors.NewServer(interceptors.AtEdge(), interceptors.WithDefaultDeadline(5*time.Second))
	if err != nil {
		return nil, err
	}
	return hophttp.NewHandler(server, mux, hophttp.Tenant(customer))
}

// customer stands for what your authentication has verified.
func customer(r *http.Request) string {
	name, _, _ := r.BasicAuth()
	return name
}

// gatewayOptions returns the options with which grpc-gateway and Hopbound work together.
func gatewayOptions() []runtime.ServeMuxOption {
	return []runtime.ServeMuxOption{
		// hophttp has read the key, and the calls get child keys of it. No caller may choose what Hopbound sends.
		runtime.WithIncomingHeaderMatcher(func(header string) (string, bool) {
			key, ok := runtime.DefaultHeaderMatcher(header)
			return key, ok && !isHopbounds(key)
		}),
		// A replayed outcome is marked. Reports are for gRPC clients.
		runtime.WithOutgoingHeaderMatcher(func(key string) (string, bool) {
			if key == "idempotency-replayed" {
				return "Idempotency-Replayed", true
			}
			return runtime.MetadataHeaderPrefix + key, !isHopbounds(key)
		}),
		runtime.WithOutgoingTrailerMatcher(func(key string) (string, bool) {
			return runtime.MetadataTrailerPrefix + key, !isHopbounds(key)
		}),
		// Errors are problem details (RFC 9457), with Retry-After. A replayed failure is marked in gRPC's trailer.
		runtime.WithErrorHandler(func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
			md, _ := runtime.ServerMetadataFromContext(ctx)
			if replayed := md.TrailerMD.Get("idempotency-replayed"); len(replayed) > 0 {
				w.Header().Set("Idempotency-Replayed", replayed[0])
			}
			hophttp.WriteError(w, err)
		}),
	}
}

// isHopbounds reports whether a metadata key is one that Hopbound itself reads or writes.
func isHopbounds(key string) bool {
	key = strings.ToLower(key)
	return key == "idempotency-key" || strings.HasPrefix(key, "hop-") || strings.HasPrefix(key, "grpc-")
}
