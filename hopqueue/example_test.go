package hopqueue_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/hopqueue"
	"github.com/hopbound/hopbound/idempotency"
	"go.opentelemetry.io/otel/propagation"
)

// A message is delivered twice. The calls of both deliveries have the same key, so the payment is made once.
func Example() {
	headers := propagation.MapCarrier{} // of the message
	send := func(ctx context.Context) {
		hopqueue.Inject(ctx, "payments", headers)
	}
	retries := budget.New()
	receive := func(ctx context.Context) error {
		ctx, end := hopqueue.Extract(ctx, "payments", headers, retries)
		defer end()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil // drop it: nobody waits for it any more
		}
		return pay(ctx)
	}

	send(idempotency.WithKey(context.Background(), "order-17"))
	for range 2 {
		if err := receive(context.Background()); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// paid, with the key 9eea47f8-9e65-80e1-9d4d-535acd18ba7c
	// paid, with the key 9eea47f8-9e65-80e1-9d4d-535acd18ba7c
}

// pay stands for a gRPC call.
func pay(ctx context.Context) error {
	key, _ := idempotency.ForCall(ctx, "/bank.v1.Bank/Pay", true)
	fmt.Println("paid, with the key", key)
	return ctx.Err()
}
