package budget_test

import (
	"context"
	"fmt"
	"time"

	"github.com/hopbound/hopbound/budget"
)

// A job that answers no request is a root of its own: all its calls share one
// grant.
func ExampleNewRoot() {
	purse := budget.New(budget.PerRequest(2))

	ctx, end := budget.NewRoot(context.Background(), purse)
	defer end(true) // true if the job succeeded, which earns the purse a share of a token

	_, underRoot := budget.FromContext(ctx) // calls made with ctx draw on this
	fmt.Println(underRoot)
	// Output: true
}

// What one hop does for one attempt: lease all tokens to the callee, and take
// back what its reply did not report as used.
func ExampleAllotment_Lease() {
	now := time.Now()
	var hop budget.Allotment
	hop.Receive(3) // came with the request

	lease := hop.Lease(now)
	fmt.Println("leased", lease.Tokens(), "free", hop.Free())

	lease.Settle(now, 1) // the reply reports one retry below
	fmt.Println("free", hop.Free(), "used", hop.Used())

	fmt.Println("may retry:", hop.Spend(now))
	fmt.Println("reports", hop.Close(now, true))
	// Output:
	// leased 3 free 0
	// free 2 used 1
	// may retry: true
	// reports 2
}
