package budget_test

import (
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hopbound/hopbound/budget"
)

var t0 = time.Unix(1_800_000_000, 0)

// takeAll empties a target's bucket by retries after a cause, and returns how many
// it paid for.
func takeAll(b *budget.Budget, now time.Time, target string, why budget.Cause) (n int) {
	for b.Take(now, target, why) {
		n++
	}
	return n
}

func TestBucketStartsWithBurstAndEarnsByTimeAndSuccess(t *testing.T) {
	t.Parallel()
	b := budget.New(budget.Ratio(0.25), budget.MinPerSecond(2), budget.Burst(10))
	if got := b.BalanceAt(t0, "a"); got != 10 {
		t.Fatalf("a new target has %v tokens, want 10", got)
	}
	if got := takeAll(b, t0, "a", budget.AfterFailure); got != 10 {
		t.Fatalf("took %d tokens, want 10", got)
	}
	b.Success(t0, "a")
	if got := b.BalanceAt(t0, "a"); got != 0.25 {
		t.Errorf("after a success %v, want 0.25", got)
	}
	if got := b.BalanceAt(t0.Add(1500*time.Millisecond), "a"); got != 3.25 {
		t.Errorf("after 1.5 s %v, want 3.25", got)
	}
	if got := b.BalanceAt(t0, "a"); got != 3.25 {
		t.Errorf("at an earlier time %v, want 3.25", got)
	}
	if got := b.BalanceAt(t0.Add(time.Hour), "a"); got != 10 {
		t.Errorf("after an hour %v, want the burst of 10", got)
	}
	if got := b.BalanceAt(t0, "b"); got != 10 {
		t.Errorf("another target has %v, want 10", got)
	}
}

func TestBucketOfABusyTargetHoldsWhatItsLastSecondHasEarned(t *testing.T) {
	t.Parallel()
	b := budget.New() // ratio 0.2, burst 3
	now := t0
	for range 5000 { // 1,000 a second
		b.Success(now, "a")
		now = now.Add(time.Millisecond)
	}
	if got := b.BalanceAt(now, "a"); got < 180 || got > 200 {
		t.Errorf("%v tokens after a second of 1,000 successes, want 180 to 200", got)
	}
	if got := b.BalanceAt(now.Add(500*time.Millisecond), "a"); got < 80 || got > 100 {
		t.Errorf("half a second later %v tokens, want 80 to 100", got)
	}
	if got := b.BalanceAt(now.Add(1100*time.Millisecond), "a"); got != 3 {
		t.Errorf("%v tokens 1.1 s later, want the burst of 3", got)
	}
}

func TestSlowTargetIsSentATenthOfWhatAFailingOneIs(t *testing.T) {
	t.Parallel()
	idle := budget.New()
	if got := [...]int{idle.Affords(t0, "a", budget.AfterTimeout), idle.Affords(t0, "a", budget.Speculative)}; got != [...]int{3, 1} {
		t.Errorf("an idle client affords %v retries after timeouts and speculative attempts, want 3 and 1", got)
	}
	for why, want := range map[budget.Cause]int{budget.AfterTimeout: 20, budget.Speculative: 10} {
		b := budget.New()
		for range 1000 {
			b.Success(t0, "a")
		}
		if got := b.Affords(t0, "a", why); got != want {
			t.Errorf("the bucket affords %d attempts of cause %d, want %d", got, why, want)
		}
		if got := takeAll(b, t0, "a", why); got != want {
			t.Errorf("took %d attempts of cause %d, want %d", got, why, want)
		}
		if got := takeAll(b, t0, "a", budget.AfterFailure); got != 200-want {
			t.Errorf("took %d retries after failures, want the other %d", got, 200-want)
		}
	}
}

func TestTargetIsNewForASecondOr200Successes(t *testing.T) {
	t.Parallel()
	b := budget.New()
	b.Success(t0, "a")
	for _, after := range []time.Duration{0, 999 * time.Millisecond, time.Second, time.Hour} {
		if got, want := b.IsNew(t0.Add(after), "a"), after < time.Second; got != want {
			t.Errorf("new after %v: %v, want %v", after, got, want)
		}
	}
	for i := range 200 {
		if !b.IsNew(t0, "b") {
			t.Fatalf("not new after %d successes", i)
		}
		b.Success(t0, "b")
	}
	if b.IsNew(t0, "b") {
		t.Error("new after 200 successes")
	}
}

func TestPutGivesBackWhatTakeTook(t *testing.T) {
	t.Parallel()
	for _, why := range []budget.Cause{budget.AfterFailure, budget.AfterTimeout, budget.Speculative} {
		b := budget.New(budget.MinPerSecond(0))
		if !b.Take(t0, "a", why) {
			t.Fatalf("cause %d: nothing to take", why)
		}
		b.Put(t0, "a", why)
		if got := b.BalanceAt(t0, "a"); got != 3 || !b.Take(t0, "a", why) {
			t.Errorf("cause %d: %v tokens after Put, want 3", why, got)
		}
	}
}

func TestSmallRatesAreNotRoundedDownByFrequentCalls(t *testing.T) {
	t.Parallel()
	b := budget.New(budget.MinPerSecond(0.001), budget.Burst(5))
	takeAll(b, t0, "a", budget.AfterFailure)
	now := t0
	for range 1_000_000 {
		now = now.Add(100 * time.Nanosecond)
		b.Take(now, "a", budget.AfterFailure)
	}
	got, want := b.BalanceAt(now, "a"), 0.001*now.Sub(t0).Seconds()
	if got > want || got < 0.99*want {
		t.Errorf("earned %v in %v, want about %v and not more", got, now.Sub(t0), want)
	}
}

// A client may call ever new targets. Each has a bucket of its own, and what they
// take together is bounded.
func TestFiveThousandthTargetBehavesLikeTheFirst(t *testing.T) {
	t.Parallel()
	b := budget.New(budget.MinPerSecond(0))
	for i := range 5000 {
		target := strconv.Itoa(i)
		if got := takeAll(b, t0, target, budget.AfterFailure); got != 3 {
			t.Fatalf("target %d has %d tokens, want 3", i, got)
		}
		for range 5 {
			b.Success(t0, target)
		}
		if got := b.BalanceAt(t0, target); got != 1 {
			t.Fatalf("target %d has %v tokens after 5 successes, want 1", i, got)
		}
	}
	if got := b.BalanceAt(t0, "4999"); got != 1 {
		t.Errorf("the last target has %v tokens, want 1", got)
	}
	if got := b.BalanceAt(t0, "0"); got != 3 {
		t.Errorf("the first target, forgotten meanwhile, has %v tokens, want 3", got)
	}
}

func TestZeroBudgetGrantsNothing(t *testing.T) {
	t.Parallel()
	b := &budget.Budget{}
	b.Success(t0, "a")
	b.Put(t0, "a", budget.AfterFailure)
	if b.Take(t0, "a", budget.AfterFailure) || b.Affords(t0, "a", budget.Speculative) != 0 || b.BalanceAt(t0, "a") != 0 {
		t.Error("the zero Budget has tokens")
	}
	b = budget.New(budget.Ratio(0), budget.MinPerSecond(0), budget.PerRequest(0), budget.Burst(0))
	for range 1000 {
		b.Success(t0, "a")
	}
	if b.Take(t0.Add(time.Hour), "a", budget.AfterFailure) {
		t.Error("a budget of zeros has tokens")
	}
	var root budget.Allotment
	for range 100 {
		root.StartCall(b)
	}
	if root.Spend() {
		t.Error("a root with a budget of zeros has tokens")
	}
}

func TestCloneHasTheSettingsAndNoneOfTheUse(t *testing.T) {
	t.Parallel()
	b := budget.New(budget.Burst(7), budget.Name("clone me"))
	takeAll(b, t0, "a", budget.AfterFailure)
	if c := b.Clone(); c.BalanceAt(t0, "a") != 7 || c.Name() != "clone me" {
		t.Errorf("the clone has %v tokens and the name %q", c.BalanceAt(t0, "a"), c.Name())
	}
}

func TestInvalidOptionsAreReplacedAndReported(t *testing.T) {
	t.Parallel()
	b := budget.New(
		budget.Ratio(math.NaN()), budget.MinPerSecond(-1), budget.PerRequest(65536), budget.Burst(-7), nil)
	if b.Err() == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"option 5 is nil", "Ratio(NaN): must be between 0 and 1e+06", "MinPerSecond(-1)", "PerRequest(65536): must be between 0 and 65535", "Burst(-7)",
	} {
		if !strings.Contains(b.Err().Error(), want) {
			t.Errorf("%q does not report %q", b.Err(), want)
		}
	}
	if b.Take(t0, "a", budget.AfterFailure) {
		t.Error("Burst(-7) has tokens")
	}
	if err := budget.New().Err(); err != nil {
		t.Errorf("the defaults are invalid: %v", err)
	}
}
