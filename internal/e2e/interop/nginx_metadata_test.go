package interop_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// viaKey is the metadata that tells the proxy of an exchange where the hop is.
const viaKey = "x-via"

// nginx is a proxy that adds nothing to the specification: a hop makes all exchanges with nginx on both sides.
func TestProxiesKeepTheExchangesOfTheSpecification(t *testing.T) {
	t.Parallel()
	defaults, all := exchanges(t)
	proxies := startNginx(t, len(all), func(addresses []string) string {
		var b strings.Builder
		b.WriteString("map $http_x_via $next { \"\" $http_x_next; default $http_x_via; }\nserver {\n")
		for _, address := range addresses {
			fmt.Fprintf(&b, "listen %s http2;\n", address)
		}
		b.WriteString("location / { grpc_pass grpc://$next; }\n}")
		return b.String()
	})
	for i, e := range all {
		t.Run(e.Name, func(t *testing.T) {
			t.Parallel()
			e.check(t, startGo(t, e.Settings.over(defaults)), proxies[i])
		})
	}
}

// receivedMetadata records the metadata of calls. It is the first of a server's interceptors.
type receivedMetadata struct {
	mu  sync.Mutex
	all []metadata.MD
}

func (r *receivedMetadata) record(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, md)
}

// options records before the interceptors of a Hopbound server run.
func (r *receivedMetadata) options(s *interceptors.Server) []grpc.ServerOption {
	return append([]grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			r.record(ctx)
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			r.record(ss.Context())
			return next(srv, ss)
		}),
	}, s.ServerOptions()...)
}

// values returns the values of a key, by call.
func (r *receivedMetadata) values(key string) (values []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, md := range r.all {
		values = append(values, strings.Join(md[key], ","))
	}
	return values
}

func testNginxPassesMetadata(t *testing.T) string {
	t.Helper()
	var received receivedMetadata
	bank := &harness.Bank{OnPay: func(_ context.Context, n int64, _ *testv1.PayRequest) error {
		if n == 1 {
			return harness.ErrUnavailable
		}
		return nil
	}}
	server := harness.NewServer(t, interceptors.WithIdempotency(idempotency.NewMemory()))
	address, _ := listen(t, func(s *grpc.Server) { testv1.RegisterTestServiceServer(s, bank) }, received.options(server)...)
	c := newCaller(t, nginxFor(t, [2]string{address, address}))
	client := testv1.NewTestServiceClient(c.cc)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-some-bin", "\x00\x01\xff"), time.Minute)
	defer cancel()
	pay := func(key idempotency.Key, account string) (header metadata.MD) {
		request := &testv1.PayRequest{Account: account}
		if reply, err := client.Pay(idempotency.WithKey(ctx, key), request, grpc.Header(&header)); err != nil {
			t.Fatalf("%.100v, %v", reply, err)
		}
		return header
	}
	_ = pay("key-1", "rent")
	if header := pay("key-1", "rent"); strings.Join(header["idempotency-replayed"], ",") != "true" || bank.Calls.Load() != 2 {
		t.Errorf("the header is %v after %d payments, want a replay after two", header, bank.Calls.Load())
	}
	_ = pay("key-2", strings.Repeat("a", 2<<20)) // by default, nginx allows 1 MiB
	sent := c.sent.all()
	if h, ok := wire.ParseContext(sent[0]); !ok || !h.HasDeadline || !h.HasSent || !h.HasBudget || h.Attempt != 1 {
		t.Errorf("%q was sent, want all fields", sent[0])
	}
	for key, want := range map[string][]string{
		wire.ContextKey:              sent,
		"grpc-previous-rpc-attempts": {"", "1", "", ""},
		idempotency.Header:           {"key-1", "key-1", "key-1", "key-2"},
		"x-some-bin":                 slices.Repeat([]string{"\x00\x01\xff"}, 4),
	} {
		if got := received.values(key); len(sent) != 4 || !slices.Equal(got, want) {
			t.Errorf("%s arrived as %q, want %q", key, got, want)
		}
	}
	testNginxPassesHeadersOfStreams(t)
	return "`hop-context`, keys, `idempotency-replayed`, reports and marks arrive unchanged, and so do the headers of streams"
}

// A server stream gives tokens back in the header, with its first message, while it is still open.
func testNginxPassesHeadersOfStreams(t *testing.T) {
	t.Helper()
	address, _ := listen(t, func(s *grpc.Server) {
		s.RegisterService(harness.StreamingService(func(s harness.Side, ss grpc.ServerStream) error {
			if err := s.Send("first"); err != nil {
				return err
			}
			<-ss.Context().Done() // until the caller has seen the header and the message
			return nil
		}), nil)
	}, harness.NewServer(t).ServerOptions()...)
	cc := newCaller(t, nginxFor(t, [2]string{address, address})).cc
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := harness.Kinds()[0].Open(ctx, cc)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(""); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	text, err := stream.Recv()
	header, headerErr := stream.Header()
	if text != "first" || err != nil || headerErr != nil || strings.Join(header[wire.ReportKey], ",") != "1;u=0" {
		t.Errorf("received %q, %v and the report %q, %v; want the first message, and a report of no used tokens", text, err, header[wire.ReportKey], headerErr)
	}
}
