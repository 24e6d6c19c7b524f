package budget_test

import (
	"context"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
)

var t0 = time.Unix(1_800_000_000, 0)

// still returns a purse that earns nothing by itself.
func still(opts ...budget.Option) *budget.Budget {
	return budget.New(append([]budget.Option{budget.Ratio(0), budget.MinPerSecond(0)}, opts...)...)
}

func funded(b *budget.Budget) *budget.Allotment {
	a := &budget.Allotment{}
	a.Fund(b)
	return a
}

func TestPurseStartsFullAndEarnsByTimeAndSuccessUpToItsBurst(t *testing.T) {
	t.Parallel()
	b := budget.New(budget.Ratio(0.25), budget.MinPerSecond(2), budget.Burst(10))
	if got := b.BalanceAt(t0); got != 10 {
		t.Fatalf("at first %v, want 10", got)
	}
	if got := b.Take(t0, 100); got != 10 {
		t.Fatalf("took %d, want 10", got)
	}
	b.Success(t0)
	if got := b.BalanceAt(t0); got != 0.25 {
		t.Errorf("after a success %v, want 0.25", got)
	}
	if got := b.BalanceAt(t0.Add(1500 * time.Millisecond)); got != 3.25 {
		t.Errorf("after 1.5 s %v, want 3.25", got)
	}
	if got := b.BalanceAt(t0); got != 3.25 {
		t.Errorf("a time that is past earned or cost: %v, want 3.25", got)
	}
	if got := b.BalanceAt(t0.Add(time.Hour)); got != 10 {
		t.Errorf("after an hour %v, want the burst, 10", got)
	}
}

func TestSmallRatesAreNotRoundedDownToNothingByFrequentCalls(t *testing.T) {
	t.Parallel()
	b := budget.New(budget.MinPerSecond(0.001), budget.Burst(5))
	b.Take(t0, 5)
	now := t0
	for range 1_000_000 {
		now = now.Add(100 * time.Nanosecond)
		b.Take(now, 1)
	}
	got, want := b.BalanceAt(now), 0.001*now.Sub(t0).Seconds()
	if got > want || got < 0.99*want {
		t.Errorf("earned %v in %v, want about %v and not more", got, now.Sub(t0), want)
	}
}

func TestDebtIsPaidBeforeAnythingIsGranted(t *testing.T) {
	t.Parallel()
	b := budget.New(budget.Ratio(1), budget.MinPerSecond(0), budget.Burst(1))
	b.Put(t0, -3)
	for want := -2; want <= 1; want++ {
		if want < 1 && b.Take(t0, 1) != 0 {
			t.Fatalf("took a token at balance %v", b.BalanceAt(t0))
		}
		if got := b.BalanceAt(t0); got != float64(want) {
			t.Fatalf("balance %v, want %d", got, want)
		}
		b.Success(t0)
	}
}

func TestRequestIsGrantedAtItsFirstCallAndGivesBackWhatItDidNotUse(t *testing.T) {
	t.Parallel()
	b := still(budget.PerRequest(3), budget.Burst(20))
	a := funded(b)
	if got := b.BalanceAt(t0); got != 20 {
		t.Fatalf("balance before the first call %v, want 20", got)
	}
	lease := a.Lease(t0)
	if lease.Tokens() != 3 || b.BalanceAt(t0) != 17 {
		t.Fatalf("leased %d, balance %v; want 3 and 17", lease.Tokens(), b.BalanceAt(t0))
	}
	lease.Settle(t0, 1)
	if used := a.Close(t0, true); used != 1 || b.BalanceAt(t0) != 19 {
		t.Errorf("used %d, balance %v; want 1 and 19", used, b.BalanceAt(t0))
	}
	if used := a.Close(t0, true); used != 1 || b.BalanceAt(t0) != 19 {
		t.Errorf("the second close changed something: used %d, balance %v", used, b.BalanceAt(t0))
	}
}

func TestSecondCallWhileAllIsLeasedGoesOutWithNothing(t *testing.T) {
	t.Parallel()
	a := &budget.Allotment{}
	a.Receive(2)
	first, second := a.Lease(t0), a.Lease(t0)
	if first.Tokens() != 2 || second.Tokens() != 0 {
		t.Fatalf("leased %d and %d, want 2 and 0", first.Tokens(), second.Tokens())
	}
	if a.Spend(t0) {
		t.Error("spent a token that is with the first call")
	}
	first.Settle(t0, 0)
	if !a.Spend(t0) {
		t.Error("the first call gave its tokens back, but the second cannot have one")
	}
}

func TestLostReplyChargesAllAndAllowsOneCreditAttempt(t *testing.T) {
	t.Parallel()
	b := still(budget.PerRequest(2), budget.Burst(4))
	a := funded(b)
	lease := a.Lease(t0)
	lease.Lost(t0)
	lease.Lost(t0)
	if a.Used() != 2 || a.Free() != 0 {
		t.Fatalf("used %d, free %d; want 2 and 0", a.Used(), a.Free())
	}
	if !lease.Credit() {
		t.Fatal("no credit attempt after a lost reply")
	}
	if lease.Credit() {
		t.Error("a second credit attempt")
	}
	if used := a.Close(t0, true); used != 3 || b.BalanceAt(t0) != 1 {
		t.Errorf("used %d, balance %v; want 3, and 1 of 4", used, b.BalanceAt(t0))
	}
}

func TestLostReplyThatHeldNothingAllowsNoCredit(t *testing.T) {
	t.Parallel()
	a := &budget.Allotment{}
	a.Receive(0)
	lease := a.Lease(t0)
	lease.Lost(t0)
	if lease.Credit() {
		t.Error("credit for a reply that held no token")
	}
}

func TestAttemptThatReachedNoServerCostsNothing(t *testing.T) {
	t.Parallel()
	a := &budget.Allotment{}
	a.Receive(1)
	if !a.Spend(t0) {
		t.Fatal("no token")
	}
	a.Unspend(t0)
	if a.Used() != 0 || a.Free() != 1 {
		t.Errorf("used %d, free %d; want 0 and 1", a.Used(), a.Free())
	}
}

func TestReportBeyondReasonIsHeld(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ leased, reported, used int }{
		"honest":                             {3, 2, 2},
		"more than leased after credits":     {3, 5, 5},
		"absurd":                             {1, 65535, 16},
		"negative":                           {3, -1, 0},
		"of a callee that was given nothing": {0, 4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := &budget.Allotment{}
			a.Receive(tc.leased)
			lease := a.Lease(t0)
			lease.Settle(t0, tc.reported)
			if got := a.Close(t0, true); got != tc.used {
				t.Errorf("charged %d, want %d", got, tc.used)
			}
		})
	}
}

func TestHopThatEndsReportsWhatIsStillLeasedAsUsed(t *testing.T) {
	t.Parallel()
	a := &budget.Allotment{}
	a.Receive(3)
	lease := a.Lease(t0)
	if used := a.Close(t0, true); used != 3 {
		t.Errorf("reported %d, want 3", used)
	}
	lease.Settle(t0, 0)
	if a.Spend(t0) || a.Free() != 0 {
		t.Error("a token came back to a request that has been reported")
	}
	if late := a.Lease(t0); late.Tokens() != 0 {
		t.Errorf("a closed request leased %d", late.Tokens())
	}
}

func TestCallThatOutlivesItsRootGivesBackToThePurse(t *testing.T) {
	t.Parallel()
	b := still(budget.PerRequest(3), budget.Burst(10))
	a := funded(b)
	lease := a.Lease(t0)
	a.Close(t0, true)
	if got := b.BalanceAt(t0); got != 7 {
		t.Fatalf("balance %v while the call runs, want 7", got)
	}
	lease.Settle(t0, 1)
	if got := b.BalanceAt(t0); got != 9 {
		t.Errorf("balance %v after it, want 9", got)
	}
}

func TestRootThatFoundThePurseLentOutMayAskAgain(t *testing.T) {
	t.Parallel()
	b := still(budget.PerRequest(2), budget.Burst(4))
	holder := funded(b)
	holding := holder.Lease(t0) // takes the half of the burst that is granted at first
	late := funded(b)
	lease := late.Lease(t0)
	if holding.Tokens() != 2 || lease.Tokens() != 0 {
		t.Fatalf("leased %d and %d, want 2 and 0", holding.Tokens(), lease.Tokens())
	}
	lease.Settle(t0, 0)
	first, second := late.Spend(t0), late.Spend(t0)
	if !first || !second {
		t.Error("the half kept for requests that fail was refused to one")
	}
	if late.Spend(t0) {
		t.Error("spent more than PerRequest")
	}
	if got := b.BalanceAt(t0); got != 0 {
		t.Errorf("balance %v, want 0", got)
	}
}

func TestFirstPurseFundsARootAndNoneFundsAHop(t *testing.T) {
	t.Parallel()
	first, second := still(), still()
	a := funded(first)
	a.Fund(second)
	a.Lease(t0)
	if first.BalanceAt(t0) == 10 || second.BalanceAt(t0) != 10 {
		t.Error("the second purse paid")
	}
	hop := &budget.Allotment{}
	hop.Receive(0)
	hop.Fund(first)
	if lease := hop.Lease(t0); lease.Tokens() != 0 || hop.Spend(t0) {
		t.Error("a hop drew on a purse of its own")
	}
}

func TestOptionsOutOfRangeAreHeldAndNamed(t *testing.T) {
	t.Parallel()
	b := budget.New(budget.Ratio(-1), budget.MinPerSecond(math.NaN()), budget.PerRequest(-1), budget.Burst(math.MaxInt), nil)
	err := b.Err()
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{"Ratio", "MinPerSecond", "PerRequest", "Burst"} {
		if !strings.Contains(err.Error(), name+"(") {
			t.Errorf("%q does not name %s", err, name)
		}
	}
	if a := funded(b); a.Spend(t0) {
		t.Error("granted with PerRequest held to 0")
	}
	if err := budget.New().Err(); err != nil {
		t.Errorf("defaults: %v", err)
	}
}

func TestZeroValuesGrantNothing(t *testing.T) {
	t.Parallel()
	a := funded(&budget.Budget{})
	if lease := a.Lease(t0); lease.Tokens() != 0 || a.Spend(t0) {
		t.Error("a zero Budget granted")
	}
	var lease budget.Lease
	lease.Settle(t0, 1)
	lease.Lost(t0)
	if lease.Credit() {
		t.Error("a zero Lease gave credit")
	}
	ctx, end := budget.NewRoot(context.Background(), nil)
	defer end(true)
	if a, ok := budget.FromContext(ctx); !ok || a.Spend(t0) {
		t.Error("a root without a purse has tokens, or no allotment")
	}
}

func TestConcurrentSpendersNeverShareAToken(t *testing.T) {
	t.Parallel()
	b := still(budget.PerRequest(50), budget.Burst(100))
	a := funded(b)
	a.Spend(t0)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		spent = 1
	)
	for range 200 {
		wg.Go(func() {
			if a.Spend(t0) {
				mu.Lock()
				defer mu.Unlock()
				spent++
			}
		})
	}
	wg.Wait()
	if spent != 50 || a.Used() != 50 {
		t.Errorf("%d spent, %d used; want 50", spent, a.Used())
	}
}
