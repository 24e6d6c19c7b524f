package budget

import "sync"

// Allotment is what one request holds of its budget at one hop. The package
// documentation lists the states of a token and its moves.
//
// The zero value belongs to a root: its first call grants it the PerRequest
// tokens of that client's [Budget]. At any other hop, call [Allotment.Receive]
// first. Concurrent calls of one request share its allotment, and all methods are
// safe for concurrent use.
type Allotment struct {
	mu     sync.Mutex
	budget *Budget // the settings; nil until the first call
	hop    bool    // the tokens came with the request
	closed bool

	// Each call holds an allotment, so that its counts are small.
	received, earned, free, lent, used int32
	calls                              int32 // made so far
	underWay                           int32 // of these, not ended
}

// Receive makes a the allotment of a hop whose caller has lent it tokens. It must
// come before any other use. A negative number counts as 0.
func (a *Allotment) Receive(tokens int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hop = true
	a.received = int32(max(0, min(tokens, maxCount)))
	a.free = a.received
}

// StartCall counts a call that the request makes through a client with budget b,
// and earns what that is worth. The first call of a root also grants it its
// tokens. The settings are those of the first call's budget; a nil b grants and
// earns nothing. Each call must be ended by [Allotment.EndCall].
func (a *Allotment) StartCall(b *Budget) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	a.underWay++
	if a.closed {
		return
	}
	if a.budget == nil {
		if b == nil {
			return
		}
		a.begin(b)
	}
	earned := a.budget.settings.share(a.calls)
	a.free += earned - a.earned
	a.earned = earned
}

// begin takes over the settings of b, and grants a root its tokens.
func (a *Allotment) begin(b *Budget) {
	a.budget = b
	if !a.hop {
		a.received = int32(b.settings.perRequest) //nolint:gosec // at most maxCount
		a.free = a.received
	}
}

// EndCall ends a call that was counted by [Allotment.StartCall].
func (a *Allotment) EndCall() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.underWay--
}

// Lend lends tokens to an attempt that is about to be made, which carries them to
// its callee: half of the free tokens, rounded up, but at least two. With two, the hop
// next to a failure can make three attempts, at any depth. While other calls of the
// request are under way, the hop keeps one for itself, and ratio × their number.
// Of hedged attempts, hedges is how many may follow this one while it is under
// way; the hop keeps a token for each of them.
//
// Each loan must be ended by [Loan.Settle] or [Loan.Lost].
func (a *Allotment) Lend(hedges int) Loan {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return Loan{from: a}
	}
	free, keep := int(a.free), hedges
	if others := a.underWay - 1; others > 0 && a.budget != nil {
		keep += 1 + int(a.budget.settings.share(others))
	}
	const enough = 2 // for three attempts of the callee's
	tokens := int32(max(0, min(max(enough, (free+1)/2), free-keep, maxCount)))
	a.free -= tokens
	a.lent += tokens
	return Loan{from: a, tokens: tokens}
}

// Spend charges an extra attempt that is about to be made, and reports whether
// there was a free token for it.
func (a *Allotment) Spend() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.free == 0 {
		return false
	}
	a.free--
	a.used++
	return true
}

// Refund takes back a charge for an attempt that reached no server.
func (a *Allotment) Refund() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.used--
	a.free++
}

// Release gives tokens back to the request's caller, because this hop starts to
// answer a stream: it may go on for long, and the caller's other calls need them.
// The hop keeps one token, what it has earned, and what is used or lent. It returns
// what the response header must report as used or lent, and whether anything was
// given back. If not, there is nothing to report.
func (a *Allotment) Release() (used int, released bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.hop || a.closed {
		return 0, false
	}
	owed := a.owed()
	back := a.received - owed - 1
	if back <= 0 {
		return 0, false
	}
	a.received -= back
	a.free -= back
	return int(owed), true
}

// Close ends the request at this hop. It returns what the hop reports to its
// caller as used, which is what was used beyond what the hop has earned. What is
// lent at that time counts as used.
//
// Calls of Close after the first return the same and do nothing.
func (a *Allotment) Close() (used int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.closed = true
		a.used += a.lent
		a.lent, a.free = 0, 0
	}
	if !a.hop {
		return 0 // there is no caller who lent it tokens
	}
	return int(a.owed())
}

// owed returns what was used of the received tokens. What a hop earns is used
// first.
func (a *Allotment) owed() int32 { return max(0, a.used+a.lent-a.earned) }

// Closed reports whether the request has ended here. Work that goes on after it is
// not part of its tree.
func (a *Allotment) Closed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}

// Free returns how many tokens are free here.
func (a *Allotment) Free() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int(a.free)
}

// Used returns how many extra attempts have been charged so far, here and, as far
// as replies have reported, below.
func (a *Allotment) Used() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int(a.used)
}
