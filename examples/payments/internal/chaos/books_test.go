package chaos

import (
	"testing"

	"github.com/hopbound/hopbound/examples/payments/internal/customer"
	"github.com/hopbound/hopbound/examples/payments/internal/shop"
	paymentsv1 "github.com/hopbound/hopbound/examples/payments/proto/hopbound/examples/payments/v1"
)

const (
	paid    = paymentsv1.PaymentState_PAYMENT_STATE_PAID
	pending = paymentsv1.PaymentState_PAYMENT_STATE_PENDING
)

// sound returns books without a fault: alice has bought two carts, and bob one whose payment was pending at first.
func sound() (*books, []*payment) {
	b := &books{
		orders: map[string]row{}, payments: map[string]row{}, entries: map[string][]row{}, transfers: map[string][]row{}, calls: 3,
		runs: []*shop.Run{
			{Tenant: "alice", Key: "1"},
			{Tenant: "alice", Key: "2"},
			{Tenant: "bob", Key: "1"},
			{Tenant: "bob", Key: "1", TakenOver: true},
		},
	}
	buy := func(reference, account, cart string, cents int64, state paymentsv1.PaymentState) *payment {
		money := row{account: account, cents: cents}
		b.orders[reference] = row{account, cart, cents}
		b.payments[reference], b.transfers[reference] = money, []row{money}
		b.entries[reference] = []row{{account: account, cents: -cents}, {account: "shop", cents: cents}}
		told := &paymentsv1.BuyResponse{Order: reference, State: state}
		return &payment{
			customer: &customer.Customer{Name: account}, cart: cart, cents: cents,
			replies: []*paymentsv1.BuyResponse{told, {Order: reference, State: state}},
			receipt: &paymentsv1.GetReceiptResponse{Order: reference, Account: account, Cents: cents, State: paid},
		}
	}
	return b, []*payment{buy("r1", "alice", "book", 100, paid), buy("r2", "alice", "pen", 20, paid), buy("r3", "bob", "car", 5000, pending)}
}

func TestSoundBooksHaveNoFault(t *testing.T) {
	t.Parallel()
	b, payments := sound()
	r := b.compare(payments)
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	want := Result{Payments: 3, Acknowledged: 3, BankAmplification: 1, Patient: 3, Answered: 3, ToldRuns: 1, Pending: 1}
	if *r != want {
		t.Errorf("got  %+v\nwant %+v", *r, want)
	}
}

// Whatever is wrong in any of the books, or in what a customer was told, is found.
func TestEachFaultIsFound(t *testing.T) {
	t.Parallel()
	double := func(r *Result) int { return r.DoubleCharges }
	lost := func(r *Result) int { return r.LostPayments }
	unknown := func(r *Result) int { return r.ChargesWithoutReceipt }
	unequal := func(r *Result) int { return r.UnequalReplies }
	untold := func(r *Result) int { return r.UntoldRuns }
	sum := func(r *Result) int { return int(r.LedgerSum) }
	for name, tc := range map[string]struct {
		plant func(b *books, payments []*payment)
		count func(*Result) int
	}{
		"the bank charges twice":         {func(b *books, _ []*payment) { b.transfers["r1"] = append(b.transfers["r1"], b.transfers["r1"][0]) }, double},
		"a cart is bought twice":         {func(b *books, _ []*payment) { copyAll(b, "r1", "again") }, double},
		"the ledger books twice":         {func(b *books, _ []*payment) { b.entries["r1"] = append(b.entries["r1"], b.entries["r1"]...) }, double},
		"an order is never charged":      {func(b *books, _ []*payment) { b.orders["more"] = b.orders["r1"] }, lost},
		"an acknowledged order is gone":  {func(b *books, _ []*payment) { removeAll(b, "r3") }, lost},
		"the bank has not charged":       {func(b *books, _ []*payment) { delete(b.transfers, "r3") }, lost},
		"a payment is not charged":       {func(b *books, _ []*payment) { b.payments["more"] = row{account: "alice", cents: 100} }, unknown},
		"the bank charges too much":      {func(b *books, _ []*payment) { b.transfers["r1"][0].cents *= 10 }, unknown},
		"the bank charges somebody else": {func(b *books, _ []*payment) { b.transfers["r1"][0].account = "bob" }, unknown},
		"the bank charges for nothing":   {func(b *books, _ []*payment) { b.transfers["more"] = b.transfers["r1"] }, unknown},
		"there is no payment":            {func(b *books, _ []*payment) { delete(b.payments, "r1") }, unknown},
		"the payment has another price":  {func(b *books, _ []*payment) { b.payments["r1"] = row{account: "alice", cents: 1} }, unknown},
		"there are no entries":           {func(b *books, _ []*payment) { delete(b.entries, "r1") }, unknown},
		"there is one entry":             {func(b *books, _ []*payment) { b.entries["r1"] = b.entries["r1"][:1] }, sum},
		"the entries have another price": {func(b *books, _ []*payment) {
			b.entries["r1"] = []row{{account: "alice", cents: -1}, {account: "shop", cents: 1}}
		}, unknown},
		"the entries are somebody else's":     {func(b *books, _ []*payment) { b.entries["r1"][0].account = "bob" }, unknown},
		"entries of a payment nobody made":    {func(b *books, _ []*payment) { b.entries["more"] = b.entries["r1"] }, unknown},
		"an order has another price":          {func(b *books, _ []*payment) { b.orders["r1"] = row{"alice", "book", 1} }, unknown},
		"an order that nobody wanted":         {func(_ *books, p []*payment) { p[0].cart = "newspaper" }, unknown},
		"another reply":                       {func(_ *books, p []*payment) { p[0].replies[1].State = pending }, unequal},
		"the order of somebody else":          {func(_ *books, p []*payment) { p[0].replies = p[2].replies }, unequal},
		"paid, and told that it was refused":  {func(_ *books, p []*payment) { p[0].refused = true }, unequal},
		"no receipt":                          {func(_ *books, p []*payment) { p[0].receipt = nil }, unequal},
		"a receipt that is pending for ever":  {func(_ *books, p []*payment) { p[0].receipt.State = pending }, unequal},
		"a receipt with another price":        {func(_ *books, p []*payment) { p[0].receipt.Cents = 1 }, unequal},
		"a receipt of somebody else":          {func(_ *books, p []*payment) { p[0].receipt.Account = "bob" }, unequal},
		"a second run that is not told":       {func(b *books, _ []*payment) { b.runs[3].TakenOver = false }, untold},
		"two payments without acknowledgment": {func(_ *books, p []*payment) { p[0].replies, p[1].replies = nil, nil }, func(r *Result) int { return r.Patient - r.Answered }},
	} {
		b, payments := sound()
		tc.plant(b, payments)
		r := b.compare(payments)
		if tc.count(r) == 0 || r.Check() == nil {
			t.Errorf("%s: not found, %+v", name, *r)
		}
	}
}

func copyAll(b *books, from, to string) {
	b.orders[to], b.payments[to], b.entries[to], b.transfers[to] = b.orders[from], b.payments[from], b.entries[from], b.transfers[from]
}

func removeAll(b *books, reference string) {
	delete(b.orders, reference)
	delete(b.payments, reference)
	delete(b.entries, reference)
	delete(b.transfers, reference)
}

// A run that had no effect is not counted, whether or not it was told that it took over.
func TestRunsWithoutAnEffectAreNotCounted(t *testing.T) {
	t.Parallel()
	r := &Result{}
	r.countRuns([]*shop.Run{
		{Tenant: "alice", Key: "1"},
		{Tenant: "alice", Key: "1", NoEffect: true},
		{Tenant: "alice", Key: "1"},
		{Tenant: "bob", Key: "1"},
		{Tenant: "bob", Key: "1", TakenOver: true},
		{Tenant: "bob", Key: "1", TakenOver: true, NoEffect: true},
	})
	if r.UntoldRuns != 0 || r.ToldRuns != 1 {
		t.Errorf("%+v", *r)
	}
}
