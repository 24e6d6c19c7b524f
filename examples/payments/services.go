package main

import (
	"context"
	"fmt"
	"sync/atomic"

	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// bank charges accounts. It knows nothing of keys: the server's interceptor does.
type bank struct {
	paymentsv1.UnimplementedBankServiceServer
	books *ledger
}

// Charge takes money from an account.
func (b *bank) Charge(_ context.Context, req *paymentsv1.ChargeRequest) (*paymentsv1.ChargeResponse, error) {
	n := b.books.charge(req.GetAccount())
	return &paymentsv1.ChargeResponse{Charge: fmt.Sprintf("charge %d of %s", n, req.GetAccount())}, nil
}

// shop sells carts: it charges the bank, and passes its context on, from which the
// charge gets its key.
type shop struct {
	paymentsv1.UnimplementedShopServiceServer
	bank      paymentsv1.BankServiceClient
	checkouts atomic.Int64
}

// Checkout buys a cart. Now and then the shop crashes when it has charged for it.
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
