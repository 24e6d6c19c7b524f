package shop

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"strings"
	"unicode"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/idempotency/redisstore"
	"github.com/redis/rueidis"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// gateway is what customers call. Its outcomes are in Redis: it has no database of its own, and what it does is in other
// services, so that no transaction could contain it.
type gateway struct {
	paymentsv1.UnimplementedGatewayServiceServer
	orders  paymentsv1.OrdersServiceClient
	bank    paymentsv1.ClearingServiceClient
	runs    *os.File
	release int
}

// Run is what the gateway records when a handler starts, so that the books can be checked later.
type Run struct {
	Tenant    string `json:"tenant"`
	Key       string `json:"key"`
	TakenOver bool   `json:"taken_over"`
	NoEffect  bool   `json:"no_effect,omitempty"` // the run before this line had none, and has told the store so
}

// openGateway connects the gateway to its store and to the services that it calls.
func openGateway(_ context.Context, c *Config, instance int, traces trace.TracerProvider) (*service, error) {
	client, err := rueidis.NewClient(redisstore.ClientOption(rueidis.ClientOption{InitAddress: []string{c.Redis}}))
	if err != nil {
		return nil, err
	}
	var opts []redisstore.Option
	if c.Prefix != "" {
		opts = append(opts, redisstore.WithPrefix(c.Prefix))
	}
	store, err := redisstore.New(client, opts...)
	if err != nil {
		return nil, err
	}
	g := &gateway{release: c.Release}
	var conns [2]*grpc.ClientConn
	for i, role := range []string{Orders, Bank} {
		if conns[i], err = c.Connect(Gateway, role, traces); err != nil {
			return nil, err
		}
	}
	g.orders, g.bank = paymentsv1.NewOrdersServiceClient(conns[0]), paymentsv1.NewClearingServiceClient(conns[1])
	g.runs, err = openLines(runsPath(c.Folder, instance))
	return &service{
		register: func(r grpc.ServiceRegistrar) { paymentsv1.RegisterGatewayServiceServer(r, g) },
		store:    store,
		check:    func(ctx context.Context) error { return client.Do(ctx, client.B().Ping().Build()).Error() },
		close: func() {
			_, _ = conns[0].Close(), conns[1].Close()
			client.Close()
			_ = g.runs.Close()
		},
	}, err
}

// Buy places an order and charges the customer. A run that takes over from another one finds the reference that the other
// one has chosen, and the order, the payment and the bank's transfer know it: nothing happens twice.
func (g *gateway) Buy(ctx context.Context, req *paymentsv1.BuyRequest) (*paymentsv1.BuyResponse, error) {
	account := caller(ctx)
	g.record(ctx, &Run{Tenant: account, TakenOver: idempotency.TakenOver(ctx)})
	if !isName(req.GetCart()) || req.GetCents() <= 0 || req.GetCents() > maxCents {
		return nil, status.Errorf(codes.InvalidArgument, "cart must have 1 to 200 bytes without control characters, and cents must be between 1 and %d", int64(maxCents))
	}
	reference := string(idempotency.LastCheckpoint(ctx))
	if reference == "" {
		reference = string(idempotency.NewKey())
		if err := idempotency.Checkpoint(ctx, []byte(reference)); err != nil && !errors.Is(err, idempotency.ErrNoCheckpoints) {
			g.record(ctx, &Run{Tenant: account, TakenOver: idempotency.TakenOver(ctx), NoEffect: true})
			return nil, idempotency.NoEffect(status.Errorf(codes.Unavailable, "storing the reference: %v", err))
		}
	}
	if idempotency.TakenOver(ctx) { // another run may have done everything but answer
		found, err := g.orders.FindOrder(ctx, &paymentsv1.FindOrderRequest{Order: reference})
		if err == nil && found.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_PAID {
			return &paymentsv1.BuyResponse{Order: reference, State: found.GetState()}, nil
		}
	}
	// From here on the payment is queued: it will be made, whatever happens to this process.
	if _, err := g.orders.Place(ctx, Of(g.release, &paymentsv1.PlaceRequest{Order: reference, Account: account, Cart: req.GetCart(), Cents: req.GetCents()})); err != nil {
		return nil, err
	}
	reply := &paymentsv1.BuyResponse{Order: reference, State: paymentsv1.PaymentState_PAYMENT_STATE_PENDING}
	if _, err := g.bank.Transfer(ctx, &paymentsv1.TransferRequest{Reference: reference, Account: account, Cents: req.GetCents()}); err != nil {
		slog.Debug("the bank has not answered", "order", reference, "err", err)
		return reply, nil // the queue makes the payment later
	}
	if confirmed, err := g.orders.Confirm(ctx, &paymentsv1.ConfirmRequest{Order: reference}); err != nil || !confirmed.GetSettled() {
		slog.Debug("the order is not confirmed", "order", reference, "err", err)
		return reply, nil // the queue confirms it later
	}
	reply.State = paymentsv1.PaymentState_PAYMENT_STATE_PAID
	return reply, nil
}

// maxCents is the highest price, 10 million euros.
const maxCents = 1_000_000_000

// isName reports whether text has 1 to 200 bytes and no control characters.
func isName(text string) bool {
	return text != "" && len(text) <= 200 && !strings.ContainsFunc(text, unicode.IsControl)
}

// caller returns the name in the certificate of the customer. Hopbound scopes keys by the same certificate.
func caller(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return ""
	}
	return info.State.PeerCertificates[0].Subject.CommonName
}

// record records that a run has started, or had no effect.
func (g *gateway) record(ctx context.Context, run *Run) {
	key, _ := idempotency.FromContext(ctx)
	run.Key = string(key)
	line, err := json.Marshal(run)
	if err == nil {
		_, err = g.runs.Write(append(line, '\n'))
	}
	if err != nil {
		slog.Error("a run is not recorded", "err", err)
	}
}

// GetReceipt says what became of an order of the customer.
func (g *gateway) GetReceipt(ctx context.Context, req *paymentsv1.GetReceiptRequest) (*paymentsv1.GetReceiptResponse, error) {
	if !isName(req.GetOrder()) {
		return nil, status.Error(codes.InvalidArgument, "order must have 1 to 200 bytes without control characters")
	}
	found, err := g.orders.FindOrder(ctx, &paymentsv1.FindOrderRequest{Order: req.GetOrder()})
	if err != nil {
		return nil, err
	}
	if found.GetAccount() != caller(ctx) {
		return nil, status.Error(codes.NotFound, "there is no such order")
	}
	if found.GetState() == paymentsv1.PaymentState_PAYMENT_STATE_UNSPECIFIED {
		return nil, status.Error(codes.Unavailable, "the state of the payment is unknown; try again later")
	}
	return &paymentsv1.GetReceiptResponse{Order: req.GetOrder(), Account: found.GetAccount(), Cents: found.GetCents(), State: found.GetState()}, nil
}
