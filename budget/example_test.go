package budget_test

import (
	"context"
	"fmt"

	"github.com/hopbound/hopbound/budget"
)

// Work that answers no gRPC request is a root of its own: all its calls share one
// request budget.
func ExampleNewRoot() {
	b := budget.New(budget.PerRequest(2))

	ctx, end := budget.NewRoot(context.Background(), b)
	defer end(true)

	a, inRequest := budget.FromContext(ctx) // calls made with ctx draw on this
	fmt.Println(inRequest, a.Free())
	// Output: true 2
}

// What one hop does for one attempt: it lends tokens to the callee, and takes back
// what the reply does not report as used.
func ExampleAllotment_Lend() {
	var hop budget.Allotment
	hop.Receive(5) // came with the request
	hop.StartCall(budget.New())

	loan := hop.Lend(0)
	fmt.Println("lent", loan.Tokens(), "free", hop.Free())

	loan.Settle(2) // the reply reports two extra attempts below
	fmt.Println("free", hop.Free(), "used", hop.Used())

	fmt.Println("may retry:", hop.Spend())
	hop.EndCall()
	fmt.Println("reports", hop.Close())
	// Output:
	// lent 3 free 2
	// free 3 used 2
	// may retry: true
	// reports 3
}

// The balance of a target shows how many retries a client could send to it now.
func ExampleBudget_Balance() {
	b := budget.New(budget.Burst(5))
	fmt.Println(b.Balance("dns:///orders:443"))
	// Output: 5
}
