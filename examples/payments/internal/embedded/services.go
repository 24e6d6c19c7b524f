package embedded

import (
	"context"
	"fmt"
	"sync/atomic"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// bank charges accounts. It has no code for idempotency keys, because the server's interceptor handles them.
type bank struct {
	paymentsv1.UnimplementedBankServiceServer
	ledger *ledger
}

// Charge charges an account.
func (b *bank) Charge(_ context.Context, req *paymentsv1.ChargeRequest) (*paymentsv1.ChargeResponse, error) {
	n := b.ledger.charge(req.GetAccount())
	return &paymentsv1.ChargeResponse{Charge: fmt.Sprintf("charge %d of %s", n, req.GetAccount())}, nil
}

// shop sells carts and charges for them through the bank. It passes its context to the call, so the charge
// gets a key that is derived from the cart's.
type shop struct {
	paymentsv1.UnimplementedShopServiceServer
	bank      paymentsv1.BankServiceClient
	checkouts atomic.Int64
}

// Checkout buys a cart. In one of five calls, the shop crashes after it has charged for the cart.
func (s *shop) Checkout(ctx context.Context, req *paymentsv1.CheckoutRequest) (*paymentsv1.CheckoutResponse, error) {
	const price = 1999
	charged, err := s.bank.Charge(ctx, &paymentsv1.ChargeRequest{Account: req.GetCart(), Cents: price})
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "charging: %v", err)
	}
	if s.checkouts.Add(1)%5 == 0 {
		panic("the shop has crashed")
	}
	return &paymentsv1.CheckoutResponse{Receipt: charged.GetCharge()}, nil
}
