package idempotency_test

import (
	"context"
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// charge stands for calls to another service.
func charge(context.Context, string) error { return nil }

// A handler that makes several downstream writes at the same time names them, so that
// each has the same key when the handler runs again.
func ExampleWithStep() {
	ctx := context.Background() // the handler's
	errs := make(chan error, 2)
	for _, party := range []string{"buyer", "seller"} {
		go func() { errs <- charge(idempotency.WithStep(ctx, "charge "+party), party) }()
	}
	fmt.Println(<-errs, <-errs)
	// Output: <nil> <nil>
}

// A failure that a retry would not change is declared to be the outcome of the write:
// every repeat of the call gets it, and the handler does not run again.
func ExampleFinal() {
	err := idempotency.Final(status.Error(codes.Aborted, "the account is closed"))
	fmt.Println(status.Code(err), idempotency.IsFinal(err))
	// Output: Aborted true
}

// Stored outcomes are sealed with a ring of keys. A new key is added to the ring of
// all servers before any seals with it.
func ExampleSeal() {
	ring, err := idempotency.NewKeyRing("2026-11", map[string][]byte{
		"2026-11": []byte("0123456789abcdef0123456789abcdef"), // from where secrets are kept
		"2026-10": []byte("fedcba9876543210fedcba9876543210"), // until what it has sealed has expired
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = idempotency.NewSettings(idempotency.Seal(ring))
	fmt.Println(err)
	// Output: <nil>
}

// reserve stands for what a handler does before anything has an effect.
func reserve(context.Context) error { return status.Error(codes.Unavailable, "the stock is down") }

// A handler that fails before it has had any effect declares this with NoEffect.
// TakenOver is then false in the next run.
func ExampleNoEffect() {
	handler := func(ctx context.Context) (any, error) {
		if err := reserve(ctx); err != nil { // before anything was charged
			return nil, idempotency.NoEffect(err)
		}
		return "charged", charge(ctx, "buyer")
	}
	_, err := handler(context.Background())
	fmt.Println(status.Code(err), idempotency.IsNoEffect(err))
	// Output: Unavailable true
}
