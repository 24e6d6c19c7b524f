package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/examples/payments/internal/cluster"
	"github.com/hopbound/hopbound/examples/payments/internal/customer"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/storetest/services"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Keys that are malformed, too long, missing, sent twice, used for something else, or somebody else's get the right error,
// and nobody sees another one's outcome.
func TestKeysAtTheGateway(t *testing.T) {
	if raceDetector {
		t.Skip("it runs other processes, which are not looked at")
	}
	services.Postgres(t) // it skips the test if they are missing; the cluster has its own
	services.Redis(t)
	f, err := parse(nil, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := cluster.Start(t.Context(), cluster.Options{Program: program, Config: f.config()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	}()
	alice, err := customer.New(t.Context(), &c.Config, "alice")
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const known = idempotency.Key("a-key-of-alice")
	hers, err := alice.Buy(ctx, known, "book", 100, 1)
	if err != nil {
		t.Fatal(err)
	}
	// A customer without Hopbound, whose client checks nothing.
	plain := c.Config
	plain.Native = true
	for name, tc := range map[string]struct {
		as   string
		keys []string
		cart string
		code codes.Code
		why  string
	}{
		"none":                  {"alice", nil, "book", codes.InvalidArgument, "KEY_MISSING"},
		"empty":                 {"alice", []string{""}, "book", codes.InvalidArgument, "KEY_INVALID"},
		"two":                   {"alice", []string{"a", "b"}, "book", codes.InvalidArgument, "KEY_INVALID"},
		"twice the same":        {"alice", []string{"a", "a"}, "book", codes.InvalidArgument, "KEY_INVALID"},
		"with a comma":          {"alice", []string{"a,b"}, "book", codes.InvalidArgument, "KEY_INVALID"},
		"too long":              {"alice", []string{strings.Repeat("k", 256)}, "book", codes.InvalidArgument, "KEY_INVALID"},
		"as long as allowed":    {"alice", []string{strings.Repeat("k", 255)}, "book", codes.OK, ""},
		"a mebibyte":            {"alice", []string{strings.Repeat("k", 1<<20)}, "book", codes.InvalidArgument, "KEY_INVALID"},
		"replayed":              {"alice", []string{string(known)}, "book", codes.OK, "the same"},
		"for another cart":      {"alice", []string{string(known)}, "car", codes.FailedPrecondition, "KEY_REUSED"},
		"that of somebody else": {"bob", []string{string(known)}, "book", codes.OK, "another"},
		"a cart with a NUL":     {"alice", []string{"nul"}, "bo\x00ok", codes.InvalidArgument, ""},
		"a long cart":           {"alice", []string{"long"}, strings.Repeat("x", 201), codes.InvalidArgument, ""},
	} {
		conn, err := plain.Connect(tc.as, shop.Gateway, noop.NewTracerProvider())
		if err != nil {
			t.Fatal(err)
		}
		md := metadata.MD{}
		for _, k := range tc.keys {
			md.Append(idempotency.Header, k)
		}
		reply, err := paymentsv1.NewGatewayServiceClient(conn).Buy(metadata.NewOutgoingContext(ctx, md), &paymentsv1.BuyRequest{Cart: tc.cart, Cents: 100})
		_ = conn.Close()
		same := reply.GetOrder() == hers.GetOrder()
		switch {
		case status.Code(err) != tc.code:
			t.Errorf("%s: %v", name, err)
		case tc.code != codes.OK && reason(err) != tc.why:
			t.Errorf("%s: the reason is %q, want %q", name, reason(err), tc.why)
		case err == nil && same != (tc.why == "the same"):
			t.Errorf("%s: the order is alice's: %v", name, same)
		}
	}
	if _, err := alice.Buy(ctx, "expensive", "house", 1_000_000_001, 1); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a price above the highest: %v", err)
	}
	if _, err := alice.Receipt(ctx, "a\x00b"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("the receipt of a malformed order: %v", err)
	}
	rejectCustomers(ctx, t, &plain)
	bob, err := customer.New(t.Context(), &c.Config, "bob")
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()
	if r, err := bob.Receipt(ctx, hers.GetOrder()); status.Code(err) != codes.NotFound {
		t.Errorf("bob sees %v, %v", r, err)
	}
}

// rejectCustomers checks that a customer's certificate opens only the gateway.
func rejectCustomers(ctx context.Context, t *testing.T, c *shop.Config) {
	t.Helper()
	for role, call := range map[string]func(grpc.ClientConnInterface) error{
		shop.Orders: func(conn grpc.ClientConnInterface) error {
			_, err := paymentsv1.NewOrdersServiceClient(conn).Place(ctx, &paymentsv1.PlaceRequest{Order: "free", Account: "alice", Cart: "car", Cents: 1})
			return err
		},
		shop.Payments: func(conn grpc.ClientConnInterface) error {
			_, err := paymentsv1.NewPaymentsServiceClient(conn).Settle(ctx, &paymentsv1.SettleRequest{Reference: "free", Account: "alice", Cents: 1})
			return err
		},
		shop.Ledger: func(conn grpc.ClientConnInterface) error {
			_, err := paymentsv1.NewLedgerServiceClient(conn).Book(ctx, &paymentsv1.BookRequest{Reference: "free", Account: "bob", Cents: 1})
			return err
		},
		shop.Bank: func(conn grpc.ClientConnInterface) error {
			_, err := paymentsv1.NewClearingServiceClient(conn).Transfer(ctx, &paymentsv1.TransferRequest{Reference: "free", Account: "bob", Cents: 1})
			return err
		},
	} {
		conn, err := c.Connect("alice", role, noop.NewTracerProvider())
		if err != nil {
			t.Fatal(err)
		}
		if err := call(conn); status.Code(err) != codes.PermissionDenied {
			t.Errorf("alice calls %s: %v", role, err)
		}
		_ = conn.Close()
	}
}
