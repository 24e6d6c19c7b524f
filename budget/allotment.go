package budget

import "sync"

// Allotment is the part of a request budget that one hop holds. The package documentation lists the
// states of a token and the operations that change them.
//
// The zero value is the allotment of a root. Its first call gives it the PerRequest tokens of that
// client's [Budget]. At any other hop, call [Allotment.Receive] first. Concurrent calls of one request at
// one hop share its allotment. All methods are safe for concurrent use.
//
// Users call [Allotment.Free] and [Allotment.Used]. The other methods are for transports.
type Allotment struct {
	mu     sync.Mutex
	budget *Budget // the settings; nil until the first call
	hop    bool    // a caller has lent the tokens; false at a root
	closed bool

	// These are 32 bits wide because every request holds an allotment.
	received, earned, free, lent, used int32
	calls                              int32 // started
	inFlight                           int32 // of these, not ended
}

// Receive makes a the allotment of a hop whose caller has lent it tokens. Call it before any other
// method. A negative number counts as 0, and one above 65535 as 65535.
//
// For transports: a server calls it when a request arrives.
func (a *Allotment) Receive(tokens int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hop = true
	a.received = int32(max(0, min(tokens, maxCount)))
	a.free = a.received
}

// StartCall counts a call that the request makes through a client with budget b. The allotment earns
// ratio tokens for it. The first call of a root also gives the root its tokens. All calls use the
// settings of the first budget that is not nil; until there is one, an allotment earns no tokens. End
// each call with [Allotment.EndCall].
//
// For transports: a client calls it when a call starts.
func (a *Allotment) StartCall(b *Budget) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls++
	a.inFlight++
	if a.closed {
		return
	}
	if a.budget == nil {
		if b == nil {
			return
		}
		a.setBudget(b)
	}
	earned := a.budget.settings.share(a.calls)
	a.free += earned - a.earned
	a.earned = earned
}

// setBudget sets the budget whose settings apply, and gives a root its tokens.
func (a *Allotment) setBudget(b *Budget) {
	a.budget = b
	if !a.hop {
		a.received = int32(b.settings.perRequest) //nolint:gosec // at most maxCount
		a.free = a.received
	}
}

// EndCall ends a call that was counted by [Allotment.StartCall].
//
// For transports: a client calls it when a call ends.
func (a *Allotment) EndCall() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inFlight--
}

// Lend lends tokens to the callee of an attempt that is about to be made: half of the free tokens,
// rounded up, and at least two if the hop has them. With two tokens, the hop next to a failure can make
// three attempts, at any depth. Lend never lends the tokens that the hop keeps: one for each of the
// hedges that may follow this attempt while it is in flight and, while other calls of the request are in
// flight, one more and ratio × the number of those calls. It lends at most 65535 tokens, the largest
// number that a request header can carry, and none after [Allotment.Close].
//
// End each loan with [Loan.Settle] or [Loan.Lost].
//
// For transports: a client calls it before it sends an attempt.
func (a *Allotment) Lend(hedges int) Loan {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return Loan{from: a}
	}
	free, keep := int(a.free), hedges
	if others := a.inFlight - 1; others > 0 && a.budget != nil {
		keep += 1 + int(a.budget.settings.share(others))
	}
	const minTokens = 2 // with two tokens, the callee can make three attempts
	tokens := int32(max(0, min(max(minTokens, (free+1)/2), free-keep, maxCount)))
	a.free -= tokens
	a.lent += tokens
	return Loan{from: a, tokens: tokens}
}

// Spend charges one token for an extra attempt that is about to be made. It returns false, and charges
// nothing, if no token is free.
//
// For transports: a client calls it before a retry or a hedge.
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

// Refund returns the token that [Allotment.Spend] charged for an attempt that reached no server.
//
// For transports: a client calls it when such an attempt ends.
func (a *Allotment) Refund() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.used--
	a.free++
}

// Release returns tokens to the request's caller when this hop starts to answer a stream, because the
// stream may be open for long and the caller's other calls need the tokens. The hop keeps one token,
// those that it has earned, and those that are used or lent. The first result is the number that the
// response header must report as used or lent. The second says whether any token was returned; if none
// was, the header needs no report. At a root and after [Allotment.Close], Release does nothing.
//
// For transports: a server calls it before it sends the header of a stream's response.
func (a *Allotment) Release() (used int, released bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.hop || a.closed {
		return 0, false
	}
	owed := a.owed()
	returned := a.received - owed - 1
	if returned <= 0 {
		return 0, false
	}
	a.received -= returned
	a.free -= returned
	return int(owed), true
}

// Close ends the request at this hop. It returns the number of tokens that the hop reports to its
// caller as used: those used beyond what the hop has earned. Tokens that are still lent count as used.
// At a root it returns 0.
//
// Further calls of Close return the same number and change nothing.
//
// For transports: a server calls it when its handler has returned.
func (a *Allotment) Close() (used int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.closed = true
		a.used += a.lent
		a.lent, a.free = 0, 0
	}
	if !a.hop {
		return 0 // no caller has lent it tokens
	}
	return int(a.owed())
}

// owed returns how many of the received tokens are used or lent. A hop uses the tokens that it has
// earned first.
func (a *Allotment) owed() int32 { return max(0, a.used+a.lent-a.earned) }

// Closed reports whether the request has ended at this hop. Work that continues after that does not
// belong to the request's call tree.
//
// For transports: a client starts a new root if the allotment in its context is closed.
func (a *Allotment) Closed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}

// Free returns the number of free tokens at this hop.
func (a *Allotment) Free() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int(a.free)
}

// Used returns the number of tokens that have been charged so far, for extra attempts at this hop and for
// calls below that have ended.
func (a *Allotment) Used() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return int(a.used)
}
