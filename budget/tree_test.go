package budget

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// forest is a model of requests that run down trees of hops. It makes the moves on
// real allotments in the order in which clients and servers make them, and counts
// what really happened beside them.
type forest struct {
	budget     *Budget
	shape      shape
	concurrent bool
	failures   chan string
}

// shape is what the random trees are drawn from. Shares are out of 100.
type shape struct {
	depth, fanout, attempts          int
	fail, lose, unreached, moreCalls int
	hedge                            int // calls whose attempts are made at the same time
	abandon                          int // calls that the handler does not wait for
	stream                           int // attempts that start to answer, and go on
	lie                              int // replies that report any number
}

// tree counts for one root request.
type tree struct {
	*forest
	calls       atomic.Int64 // attempts in all
	extra       atomic.Int64
	earned      atomic.Int64
	lostHolding atomic.Int64
}

// maxCalls ends the growth of one tree, so that fan-out to the power of depth does
// not make it endless.
const maxCalls = 400

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
	_, late := t.handle(root, 0, rng)
	t.conserved(root)
	root.Close()
	late()
	t.finished(root)
	bound := int64(f.budget.settings.perRequest) + t.earned.Load() + t.lostHolding.Load()
	if f.shape.lie == 0 && t.extra.Load() > bound {
		f.complain("more extra attempts than PerRequest, what the calls earned, and lost replies")
	}
}

// finished checks an allotment all of whose calls have ended.
func (t *tree) finished(a *Allotment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t.earned.Add(int64(a.earned))
	if a.inFlight != 0 || a.lent != 0 {
		t.complain("a call is under way, or tokens are lent, though all has finished")
	}
}

// handle makes the calls of one hop, one after another or all at once. Calls that
// it does not wait for end in late, which runs when the hop has closed.
func (t *tree) handle(a *Allotment, depth int, rng *rand.Rand) (ok bool, late func()) {
	late = func() {}
	if depth == t.shape.depth {
		return rng.IntN(100) >= t.shape.fail, late
	}
	if rng.IntN(100) < t.shape.abandon {
		seed := rng.Uint64()
		a.StartCall(t.budget)
		loan := a.Lend(0)
		late = func() {
			t.attempt(a, &loan, depth, rand.New(rand.NewPCG(seed, 2)), false)
			a.EndCall()
		}
	}
	calls := 1
	for calls < t.shape.fanout && rng.IntN(100) < t.shape.moreCalls {
		calls++
	}
	var (
		wg     sync.WaitGroup
		failed atomic.Bool
	)
	for range calls {
		child := rand.New(rand.NewPCG(rng.Uint64(), 1))
		call := func() {
			a.StartCall(t.budget)
			defer a.EndCall()
			if !t.call(a, depth, child) {
				failed.Store(true)
			}
		}
		if t.concurrent {
			wg.Go(call)
		} else {
			call()
		}
	}
	wg.Wait()
	return !failed.Load(), late
}

// call makes one call from a hop: attempts until one succeeds, or until the
// allotment has no token for another.
func (t *tree) call(a *Allotment, depth int, rng *rand.Rand) bool {
	if rng.IntN(100) < t.shape.hedge {
		return t.hedge(a, depth, rng)
	}
	seen, charged := false, false // an attempt reached a server; the coming one is charged
	for attempt := 1; ; attempt++ {
		t.conserved(a)
		loan := a.Lend(0)
		ok, reached := t.attempt(a, &loan, depth, rng, false)
		switch {
		case !reached && charged:
			a.Refund()
		case reached && seen:
			t.extra.Add(1)
		}
		seen = seen || reached
		if ok || attempt == t.shape.attempts {
			return ok
		}
		charged = false
		if seen && !loan.Credit() {
			if charged = a.Spend(); !charged {
				return false
			}
		}
	}
}

// hedge makes one call whose attempts are all under way at the same time. One is
// drawn to win. The others are cancelled, which is a lost reply.
func (t *tree) hedge(a *Allotment, depth int, rng *rand.Rand) bool {
	var loans []*Loan
	for n := 1; n <= t.shape.attempts; n++ {
		if n > 1 && !a.Spend() {
			break
		}
		loan := a.Lend(t.shape.attempts - n)
		loans = append(loans, &loan)
		t.conserved(a)
	}
	winner := rng.IntN(len(loans))
	var (
		wg      sync.WaitGroup
		won     atomic.Bool
		reached atomic.Int64
	)
	for i, loan := range loans {
		child := rand.New(rand.NewPCG(rng.Uint64(), 3))
		end := func() {
			ok, seen := t.attempt(a, loan, depth, child, i != winner)
			if seen {
				reached.Add(1)
			} else if i > 0 {
				a.Refund()
			}
			if ok && i == winner {
				won.Store(true)
			}
		}
		if t.concurrent {
			wg.Go(end)
		} else {
			end()
		}
	}
	wg.Wait()
	t.extra.Add(max(0, reached.Load()-1))
	return won.Load()
}

// attempt makes one attempt, which is cancelled in the end or not, and ends its
// loan.
func (t *tree) attempt(a *Allotment, loan *Loan, depth int, rng *rand.Rand, cancelled bool) (ok, reached bool) {
	if t.calls.Add(1) > maxCalls || rng.IntN(100) < t.shape.unreached {
		loan.Settle(0)
		return false, false
	}
	callee := &Allotment{}
	callee.Receive(loan.Tokens())
	ok, late := t.handle(callee, depth+1, rng)
	if rng.IntN(100) < t.shape.stream {
		if used, released := callee.Release(); released {
			loan.Answered(used)
		}
		t.conserved(a)
		var more bool
		var later func()
		more, later = t.handle(callee, depth+1, rng)
		ok, late = ok && more, both(late, later)
	}
	t.conserved(callee)
	used := callee.Close()
	defer func() {
		late()
		t.finished(callee)
	}()
	if rng.IntN(100) < t.shape.lie {
		used = rng.IntN(200_000) - 1000
	}
	if !cancelled && rng.IntN(100) >= t.shape.lose {
		loan.Settle(used)
		t.conserved(a)
		return ok, true
	}
	loan.Lost()
	if loan.credit {
		t.lostHolding.Add(1)
	}
	t.conserved(a)
	return false, true
}

func both(a, b func()) func() { return func() { a(); b() } }

// conserved checks that no token is in two places, and none is nowhere.
func (t *tree) conserved(a *Allotment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	if a.free+a.lent+a.used != a.received+a.earned {
		t.complain("free, lent and used tokens are not those received and earned")
	}
	if a.inFlight == 0 && a.lent != 0 {
		t.complain("tokens are lent, though no call is in flight")
	}
	if a.free < 0 || a.lent < 0 || a.used < 0 || a.received < 0 {
		t.complain("a negative count")
	}
}

func drawForest(rng *rand.Rand, concurrent bool) *forest {
	rare := func() int { return pick(rng, 0, 0, 1, 20, 100) }
	return &forest{
		budget: New(
			Ratio(pick(rng, 0, 0.1, 0.2, 1.0/3, 0.6, 1)),
			PerRequest(rng.IntN(11)),
		),
		shape: shape{
			depth:     between(rng, 1, 8),
			fanout:    between(rng, 1, 6),
			attempts:  between(rng, 1, 4),
			fail:      pick(rng, 0, 5, 10, 50, 90, 100),
			moreCalls: pick(rng, 10, 50, 100),
			lose:      rare(),
			unreached: pick(rng, 0, 0, 1, 30),
			hedge:     rare(),
			abandon:   pick(rng, 0, 0, 10, 50),
			stream:    rare(),
			lie:       pick(rng, 0, 0, 0, 20, 100),
		},
		concurrent: concurrent,
		failures:   make(chan string, 1),
	}
}

func (f *forest) check(t *testing.T) {
	t.Helper()
	select {
	case what := <-f.failures:
		t.Fatalf("%s, in trees of %+v", what, f.shape)
	default:
	}
}

func TestTreeBoundHoldsOneCallAtATime(t *testing.T) {
	t.Parallel()
	checkRandom(t, func(t *testing.T, rng *rand.Rand) {
		t.Helper()
		f := drawForest(rng, false)
		for range between(rng, 1, 20) {
			f.request(rng)
			f.check(t)
		}
	})
}

func TestTreeBoundHoldsWithConcurrentCallsAndRoots(t *testing.T) {
	t.Parallel()
	checkRandom(t, func(t *testing.T, rng *rand.Rand) {
		t.Helper()
		f := drawForest(rng, true)
		seed := rng.Uint64()
		var wg sync.WaitGroup
		for i := range between(rng, 1, 8) {
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
