package budget_test

import (
	"testing"

	"github.com/hopbound/hopbound/budget"
)

// root returns the allotment of a root that has started calls, all under way.
func root(calls int, opts ...budget.Option) *budget.Allotment {
	b := budget.New(opts...)
	a := &budget.Allotment{}
	for range calls {
		a.StartCall(b)
	}
	return a
}

// hop returns the allotment of a hop that was lent tokens and has started a call.
func hop(tokens int) *budget.Allotment {
	a := &budget.Allotment{}
	a.Receive(tokens)
	a.StartCall(budget.New())
	return a
}

func want(t *testing.T, a *budget.Allotment, free, used int) {
	t.Helper()
	if a.Free() != free || a.Used() != used {
		t.Errorf("%d free and %d used, want %d and %d", a.Free(), a.Used(), free, used)
	}
}

func TestRootStartsWithPerRequestAtItsFirstCall(t *testing.T) {
	t.Parallel()
	want(t, &budget.Allotment{}, 0, 0)
	want(t, root(1), 10, 0)
	want(t, root(1, budget.PerRequest(2)), 2, 0)
}

func TestHopEarnsWholeTokensByItsCalls(t *testing.T) {
	t.Parallel()
	for calls, free := range map[int]int{4: 0, 5: 1, 9: 1, 10: 2, 100: 20} {
		want(t, root(calls, budget.PerRequest(0)), free, 0)
	}
	a := &budget.Allotment{}
	a.Receive(3)
	for range 5 {
		a.StartCall(budget.New(budget.PerRequest(99)))
	}
	want(t, a, 4, 0)
}

func TestSettingsAreThoseOfTheFirstCall(t *testing.T) {
	t.Parallel()
	a := root(1, budget.PerRequest(2), budget.Ratio(0))
	for range 100 {
		a.StartCall(budget.New())
	}
	want(t, a, 2, 0)
}

func TestHopLendsHalfOfItsTokensAndAtLeastTwo(t *testing.T) {
	t.Parallel()
	for free, lent := range map[int]int{10: 5, 9: 5, 5: 3, 4: 2, 3: 2, 2: 2, 1: 1, 0: 0} {
		if loan := hop(free).Lend(0); loan.Tokens() != lent {
			t.Errorf("lent %d of %d, want %d", loan.Tokens(), free, lent)
		}
	}
	a := root(1)
	loan := a.Lend(0)
	want(t, a, 5, 0)
	loan.Settle(4)
	want(t, a, 6, 4)
	loan.Settle(5) // it has ended
	loan.Lost()
	want(t, a, 6, 4)
}

func TestHopKeepsATokenForEachHedge(t *testing.T) {
	t.Parallel()
	for hedges, tokens := range map[int]int{0: 5, 1: 5, 7: 3, 10: 0, 50: 0} {
		if loan := root(1).Lend(hedges); loan.Tokens() != tokens {
			t.Errorf("lent %d with %d hedges to follow, want %d", loan.Tokens(), hedges, tokens)
		}
	}
}

// Of calls at the same time, the first must not hold what the others need.
func TestHopKeepsTokensForItsOtherCallsUnderWay(t *testing.T) {
	t.Parallel()
	b := budget.New()
	a := &budget.Allotment{}
	lent := 0
	for range 20 {
		a.StartCall(b)
		loan := a.Lend(0)
		lent += loan.Tokens()
	}
	if lent != 10 || a.Free() != 4 {
		t.Errorf("lent %d to 20 calls and kept %d, want 10 and the 4 that they earned", lent, a.Free())
	}
	pair := hop(2)
	pair.StartCall(b)
	if loan := pair.Lend(0); loan.Tokens() != 1 {
		t.Errorf("lent %d of 2 beside another call, want 1", loan.Tokens())
	}
	pair.EndCall()
	if loan := pair.Lend(0); loan.Tokens() != 1 {
		t.Errorf("lent %d of 1 when the other call had ended, want 1", loan.Tokens())
	}
}

func TestLostReplyCostsAllThatWasLentAndAllowsOneAttemptOnCredit(t *testing.T) {
	t.Parallel()
	a := root(1)
	loan := a.Lend(0)
	loan.Lost()
	want(t, a, 5, 5)
	if !loan.Credit() || loan.Credit() {
		t.Error("want one credit")
	}
	none := hop(0).Lend(0)
	none.Lost()
	if none.Credit() {
		t.Error("a lost reply that held no tokens has a credit")
	}
}

func TestDishonestReportCostsNoMoreThanWasLent(t *testing.T) {
	t.Parallel()
	for _, used := range []int{6, 65535, 1 << 40} {
		a := root(1)
		loan := a.Lend(0)
		loan.Settle(used)
		want(t, a, 5, 5)
		if loan.Used() != 5 {
			t.Errorf("charged %d, want 5", loan.Used())
		}
	}
	a := root(1)
	loan := a.Lend(0)
	loan.Settle(-5)
	want(t, a, 10, 0)
}

func TestSpendTakesAFreeTokenAndRefundGivesItBack(t *testing.T) {
	t.Parallel()
	a := hop(1)
	if !a.Spend() || a.Spend() {
		t.Error("want one token to spend")
	}
	want(t, a, 0, 1)
	a.Refund()
	want(t, a, 1, 0)
}

func TestHopReportsWhatItUsedBeyondWhatItEarned(t *testing.T) {
	t.Parallel()
	a := &budget.Allotment{}
	a.Receive(2)
	for range 10 {
		a.StartCall(budget.New()) // earns 2
	}
	for range 3 {
		if !a.Spend() {
			t.Fatal("no token")
		}
	}
	if got := a.Close(); got != 1 {
		t.Errorf("reports %d, want 1", got)
	}
	want(t, a, 0, 3)
}

func TestWhatIsLentAtTheEndCountsAsUsed(t *testing.T) {
	t.Parallel()
	a := hop(5)
	loan := a.Lend(0)
	if got := a.Close(); got != 3 {
		t.Errorf("reports %d, want the 3 that are lent", got)
	}
	loan.Settle(0)
	if got := a.Close(); got != 3 || !a.Closed() {
		t.Errorf("the second Close reports %d, want 3", got)
	}
	if late := a.Lend(0); late.Tokens() != 0 || a.Spend() {
		t.Error("a closed allotment has tokens")
	}
}

func TestRootReportsNothing(t *testing.T) {
	t.Parallel()
	a := root(1)
	a.Spend()
	if got := a.Close(); got != 0 {
		t.Errorf("reports %d, want 0: no caller lent it tokens", got)
	}
}

// A stream goes on after its first response. Both sides agree on what the callee
// still has: what it has used or lent, and one token.
func TestStreamThatAnswersGivesBackAllTokensButOne(t *testing.T) {
	t.Parallel()
	caller := root(1)
	loan := caller.Lend(0)
	callee := hop(loan.Tokens())
	callee.Spend()
	callee.Spend()
	used, released := callee.Release()
	if used != 2 || !released {
		t.Fatalf("the header reports %d, %v; want 2", used, released)
	}
	loan.Answered(used)
	want(t, callee, 1, 2)
	want(t, caller, 7, 0) // 10 less 3 that are still lent
	if _, again := callee.Release(); again || callee.Free() != 1 {
		t.Error("a second Release gave something back")
	}
	loan.Answered(0)
	want(t, caller, 7, 0)
	callee.Spend()
	loan.Settle(callee.Close())
	want(t, caller, 7, 3)
}

// What a callee had lent when it answered may come back unused.
func TestTokensThatWereLentWhenAStreamAnsweredComeBack(t *testing.T) {
	t.Parallel()
	caller := root(1)
	loan := caller.Lend(0)
	callee := hop(loan.Tokens())
	below := callee.Lend(0)
	if used, _ := callee.Release(); used != 3 {
		t.Fatalf("the header reports %d, want the 3 that are lent", used)
	}
	loan.Answered(3)
	below.Settle(0)
	loan.Settle(callee.Close())
	want(t, caller, 10, 0)
}

func TestCalleeKeepsWhatItHasEarnedWhenItAnswers(t *testing.T) {
	t.Parallel()
	callee := &budget.Allotment{}
	callee.Receive(9)
	for range 20 {
		callee.StartCall(budget.New()) // earns 4
	}
	callee.Spend()
	if used, released := callee.Release(); used != 0 || !released {
		t.Errorf("the header reports %d, %v; want 0", used, released)
	}
	want(t, callee, 4, 1) // 1 of the tokens received, and 4 earned of which 1 is used
}

func TestStreamThatHasNothingToGiveBackReportsNothing(t *testing.T) {
	t.Parallel()
	for _, tokens := range []int{0, 1} {
		if _, released := hop(tokens).Release(); released {
			t.Errorf("a hop that was lent %d tokens gave some back", tokens)
		}
	}
	if _, released := root(1).Release(); released {
		t.Error("a root gave tokens back")
	}
}

func TestLostReplyOfAStreamThatAnsweredCostsWhatItHeld(t *testing.T) {
	t.Parallel()
	caller := root(1)
	loan := caller.Lend(0)
	loan.Answered(0)
	want(t, caller, 9, 0)
	loan.Lost()
	want(t, caller, 9, 1)
}

func TestNewRootEndsOnce(t *testing.T) {
	t.Parallel()
	ctx, end := budget.NewRoot(t.Context(), budget.New(budget.PerRequest(4)))
	a, ok := budget.FromContext(ctx)
	if !ok || a.Free() != 4 {
		t.Fatalf("%v, want a root with 4 tokens", ok)
	}
	end(true)
	end(false)
	if !a.Closed() {
		t.Error("the root has not ended")
	}
	ctx, end = budget.NewRoot(t.Context(), nil)
	defer end(false)
	if a, ok := budget.FromContext(ctx); !ok || a.Spend() {
		t.Error("a root without a budget has tokens")
	}
}
