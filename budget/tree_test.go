package budget

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A forest is a model of requests that run down trees of hops. It makes the
// moves on the real purse and allotments in the order in which a client makes
// them, and counts on the side what really happened.
type forest struct {
	purse      *Budget
	shape      shape
	concurrent bool

	begun   time.Time
	elapsed atomic.Int64 // virtual nanoseconds since begun

	extra     atomic.Int64 // attempts after the first one that reached a server
	successes atomic.Int64 // of roots
	unseen    atomic.Int64 // used below a lost reply beyond what was leased there
	failures  chan string
}

// shape is what the random trees are drawn from. Shares are out of 100.
type shape struct {
	depth, fanout, attempts          int
	fail, lose, unreached, moreCalls int
	hedge                            int // calls whose attempts are made at the same time
	abandon                          int // calls that the handler does not wait for
}

// tree counts for one root request.
type tree struct {
	*forest
	calls       atomic.Int64
	extra       atomic.Int64
	lostHolding atomic.Int64
}

// mostCalls ends the growth of one tree, lest fan-out to the power of depth
// make it endless.
const mostCalls = 400

func (f *forest) now() time.Time { return f.begun.Add(time.Duration(f.elapsed.Load())) }

func (f *forest) complain(what string) {
	select {
	case f.failures <- what:
	default:
	}
}

// request runs one root request to its end and checks the tree bound.
func (f *forest) request(rng *rand.Rand) {
	t := &tree{forest: f}
	root := &Allotment{}
	root.Fund(f.purse)
	ok, late := t.handle(root, 0, rng)
	if ok {
		f.successes.Add(1)
	}
	root.Close(f.now(), ok)
	late()
	if granted := int64(root.granted); t.extra.Load() > granted+t.lostHolding.Load() {
		f.complain("tree bound: more extra attempts than tokens granted and replies lost")
	}
	if root.granted > f.purse.perRequest {
		f.complain("granted more than PerRequest")
	}
	f.extra.Add(t.extra.Load())
}

// handle makes the calls of one hop, one after another or all at once. What it
// does not wait for is left to late, which runs when the hop has closed.
func (t *tree) handle(a *Allotment, depth int, rng *rand.Rand) (ok bool, late func()) {
	late = func() {}
	if depth == t.shape.depth {
		return rng.IntN(100) >= t.shape.fail, late
	}
	if rng.IntN(100) < t.shape.abandon {
		seed := rng.Uint64()
		lease := a.Lease(t.now())
		late = func() { t.attempt(a, &lease, depth, rand.New(rand.NewPCG(seed, 2))) }
	}
	calls := 1
	for calls < t.shape.fanout && rng.IntN(100) < t.shape.moreCalls {
		calls++
	}
	ok = true
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		call = func(rng *rand.Rand) {
			reply := t.call(a, depth, rng)
			mu.Lock()
			defer mu.Unlock()
			ok = ok && reply
		}
	)
	for range calls {
		seed := rng.Uint64()
		child := rand.New(rand.NewPCG(seed, 1))
		if t.concurrent {
			wg.Go(func() { call(child) })
		} else {
			call(child)
		}
	}
	wg.Wait()
	return ok, late
}

// hedge makes one call from a hop whose attempts are under way at the same time:
// each that starts keeps tokens for those that may follow, and the first to
// succeed wins. The others are cancelled, which is a lost reply.
func (t *tree) hedge(a *Allotment, depth int, rng *rand.Rand) bool {
	type run struct {
		lease Lease
		paid  bool
		rng   *rand.Rand
	}
	var runs []run
	for n := 1; n <= t.shape.attempts; n++ {
		t.elapsed.Add(rng.Int64N(int64(20 * time.Millisecond)))
		if n > 1 && !a.Spend(t.now()) {
			break
		}
		runs = append(runs, run{a.LeaseKeeping(t.now(), t.shape.attempts-n), n > 1, rand.New(rand.NewPCG(rng.Uint64(), 3))})
		t.conserved(a)
	}
	winner := rng.IntN(len(runs))
	var (
		wg      sync.WaitGroup
		won     atomic.Bool
		reached atomic.Int64
	)
	for i := range runs {
		r := &runs[i]
		end := func() {
			ok, seen := t.attemptThat(a, &r.lease, depth, r.rng, i != winner)
			switch {
			case seen:
				reached.Add(1)
				won.CompareAndSwap(false, ok && i == winner)
			case r.paid:
				a.Unspend(t.now())
			}
		}
		if t.concurrent {
			wg.Go(end)
		} else {
			end()
		}
	}
	wg.Wait()
	t.conserved(a)
	t.extra.Add(max(0, reached.Load()-1))
	return won.Load()
}

// call makes one call from a hop: attempts until one succeeds, or until the
// allotment has no token for another.
func (t *tree) call(a *Allotment, depth int, rng *rand.Rand) bool {
	if rng.IntN(100) < t.shape.hedge {
		return t.hedge(a, depth, rng)
	}
	seen, paid := false, false // an attempt reached a server; the coming one is charged
	for attempt := 1; ; attempt++ {
		t.elapsed.Add(rng.Int64N(int64(20 * time.Millisecond)))
		t.conserved(a)
		lease := a.Lease(t.now())
		if lease.Tokens() < 0 {
			t.complain("a lease of less than nothing")
		}
		ok, reached := t.attempt(a, &lease, depth, rng)
		switch {
		case !reached && paid:
			a.Unspend(t.now())
		case reached && seen:
			t.extra.Add(1)
		}
		seen = seen || reached
		if ok {
			return true
		}
		if attempt == t.shape.attempts {
			return false
		}
		paid = false
		if seen {
			if !a.Spend(t.now()) && !lease.Credit() {
				return false
			}
			paid = true
		}
	}
}

// attempt makes one attempt and ends its lease.
func (t *tree) attempt(a *Allotment, lease *Lease, depth int, rng *rand.Rand) (ok, reached bool) {
	return t.attemptThat(a, lease, depth, rng, false)
}

// attemptThat makes one attempt that is cancelled in the end, or not.
func (t *tree) attemptThat(a *Allotment, lease *Lease, depth int, rng *rand.Rand, cancelled bool) (ok, reached bool) {
	if t.calls.Add(1) > mostCalls || rng.IntN(100) < t.shape.unreached {
		lease.Settle(t.now(), 0)
		return false, false
	}
	callee := &Allotment{}
	callee.Receive(lease.Tokens())
	ok, late := t.handle(callee, depth+1, rng)
	t.conserved(callee)
	used := callee.Close(t.now(), ok)
	defer late()
	if !cancelled && rng.IntN(100) >= t.shape.lose {
		lease.Settle(t.now(), used)
		return ok, true
	}
	if lease.Tokens() > 0 {
		t.lostHolding.Add(1)
	}
	t.unseen.Add(int64(max(0, used-lease.Tokens())))
	lease.Lost(t.now())
	t.conserved(a)
	return false, true
}

// conserved checks that no token is in two places, and none nowhere.
func (t *tree) conserved(a *Allotment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	if a.free+a.leased+a.used != a.granted {
		t.complain("an allotment's free, leased and used tokens are not those granted")
	}
	if a.leased < 0 || a.used < 0 {
		t.complain("a negative count")
	}
}

// check asserts the system bound, in the purse's own unit, to the last unit.
func (f *forest) check(t *rapid.T) {
	select {
	case what := <-f.failures:
		t.Fatal(what)
	default:
	}
	f.purse.BalanceAt(f.now())
	level := f.purse.level
	if level > f.purse.burst {
		t.Fatalf("the purse holds %d, more than its burst %d", level, f.purse.burst)
	}
	earned := f.purse.ratio*f.successes.Load() + int64(f.purse.perNano*float64(f.elapsed.Load()))
	bound := earned + f.purse.burst + max(0, -level) + f.unseen.Load()*token
	if extra := f.extra.Load() * token; extra > bound {
		t.Fatalf("system bound: %d extra attempts, bound %.9f (%d successes, %v, balance %.9f, %d unseen)",
			f.extra.Load(), float64(bound)/float64(token), f.successes.Load(),
			time.Duration(f.elapsed.Load()), float64(level)/float64(token), f.unseen.Load())
	}
}

func drawForest(t *rapid.T, concurrent bool) *forest {
	percent := rapid.SampledFrom([]int{0, 5, 10, 50, 90, 100})
	return &forest{
		purse: New(
			Ratio(rapid.SampledFrom([]float64{0, 0.1, 0.2, 1.0 / 3, 0.6, 1}).Draw(t, "ratio")),
			MinPerSecond(rapid.SampledFrom([]float64{0, 0.001, 0.3, 1, 7}).Draw(t, "minPerSecond")),
			PerRequest(rapid.IntRange(0, 5).Draw(t, "perRequest")),
			Burst(rapid.IntRange(0, 30).Draw(t, "burst")),
		),
		shape: shape{
			depth:     rapid.IntRange(1, 8).Draw(t, "depth"),
			fanout:    rapid.IntRange(1, 4).Draw(t, "fanout"),
			attempts:  rapid.IntRange(1, 4).Draw(t, "attempts"),
			fail:      percent.Draw(t, "fail"),
			lose:      rapid.SampledFrom([]int{0, 0, 1, 20, 50, 100}).Draw(t, "lose"),
			unreached: rapid.SampledFrom([]int{0, 0, 1, 30}).Draw(t, "unreached"),
			hedge:     rapid.SampledFrom([]int{0, 0, 20, 100}).Draw(t, "hedge"),
			abandon:   rapid.SampledFrom([]int{0, 0, 10, 50}).Draw(t, "abandon"),
			moreCalls: rapid.SampledFrom([]int{10, 50, 100}).Draw(t, "moreCalls"),
		},
		concurrent: concurrent,
		begun:      time.Unix(1_800_000_000, 0),
		failures:   make(chan string, 1),
	}
}

func TestInvariantsHoldOverRandomCallTreesOneCallAtATime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawForest(t, false)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			f.request(rng)
			f.check(t)
		}
		if f.shape.lose == 0 && f.shape.hedge == 0 && f.unseen.Load() != 0 {
			t.Fatal("the model counts unseen charges where no reply is lost")
		}
	})
}

func TestInvariantsHoldOverRandomCallTreesWithConcurrentCallsAndRoots(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawForest(t, true)
		seed := rapid.Uint64().Draw(t, "seed")
		var wg sync.WaitGroup
		for i := range rapid.IntRange(1, 8).Draw(t, "roots at once") {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(i)))
				for range 5 {
					f.request(rng)
				}
			})
		}
		wg.Wait()
		f.check(t)
	})
}
