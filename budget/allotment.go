package budget

import (
	"sync"
	"time"
)

// mostPerToken bounds what a callee may report for each token it was leased.
// More than was leased is honest after lost replies, once for each hop of a
// path below; beyond sixteen, a peer is not to be believed.
const mostPerToken = 16

// Allotment is what one request holds of its budget at one hop: the free
// tokens, those leased to calls under way, and what has been used here and
// below. The states and moves are in the package comment.
//
// The zero value belongs to a root that no purse funds yet: it holds nothing
// until [Allotment.Fund]. A hop further down gets its tokens from
// [Allotment.Receive]. Concurrent calls of one request share its allotment, and
// all methods are safe for concurrent use.
type Allotment struct {
	mu      sync.Mutex
	purse   *Budget // pays for a root; nil at any other hop
	hop     bool    // the tokens came with the request
	granted int
	free    int // negative while a credit is unpaid
	leased  int
	used    int
	closed  bool
}

// Receive makes a the allotment of a hop that its caller has leased tokens to.
// It must come before any other use.
func (a *Allotment) Receive(tokens int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hop = true
	a.granted = max(0, tokens)
	a.free = a.granted
}

// Fund names the purse that pays if a belongs to a root and has none yet:
// the first client that such a request calls through brings its own. Otherwise
// it does nothing.
func (a *Allotment) Fund(b *Budget) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.hop && a.purse == nil {
		a.purse = b
	}
}

// Lease hands all free tokens to an attempt that is about to be made, and the
// attempt carries them to its callee. A root's first lease is when it is
// granted its tokens. While all of them are with another call, and after
// [Allotment.Close], a lease is of nothing.
//
// Each lease must be ended by one call of [Lease.Settle] or [Lease.Lost].
func (a *Allotment) Lease(now time.Time) Lease { return a.LeaseKeeping(now, 0) }

// LeaseKeeping is [Allotment.Lease] of all but keep of the free tokens. What
// is kept pays for the hedges of the attempt, which are made while it holds the
// rest.
func (a *Allotment) LeaseKeeping(now time.Time, keep int) Lease {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return Lease{from: a}
	}
	if a.purse != nil && a.granted == 0 {
		a.granted = a.purse.grant(now)
		a.free += a.granted
	}
	tokens := max(0, a.free-max(0, keep))
	a.free -= tokens
	a.leased += tokens
	return Lease{from: a, tokens: tokens}
}

// Spend charges an extra attempt that is about to be made, and reports whether
// there was a token for it. A root that has none free asks its purse for one,
// up to its PerRequest: an earlier grant may have come short because other
// requests held the tokens.
func (a *Allotment) Spend(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	if a.free <= 0 && (a.free < 0 || !a.topUp(now)) {
		return false
	}
	a.free--
	a.used++
	return true
}

func (a *Allotment) topUp(now time.Time) bool {
	if a.purse == nil || a.granted >= a.purse.perRequest || a.purse.Take(now, 1) == 0 {
		return false
	}
	a.granted++
	a.free++
	return true
}

// Unspend takes back a charge for an attempt that turned out to have reached no
// server.
func (a *Allotment) Unspend(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !a.closed:
		a.used--
		a.free++
	case a.purse != nil:
		a.purse.Put(now, 1)
	}
}

// Close ends the request at this hop and returns how many extra attempts are
// charged to it and all below it, which is what a hop reports to its caller.
// What is leased at that time counts as used. A root gives back what it did not
// use, and earns its purse a success if it was one; its calls that end later
// give back theirs when they do.
//
// Calls of Close after the first return the same and do nothing.
func (a *Allotment) Close(now time.Time, success bool) (used int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return a.used
	}
	a.closed = true
	if a.purse != nil {
		a.purse.Put(now, a.free)
		if success {
			a.purse.Success(now)
		}
		a.free = 0
	}
	a.used += a.leased
	return a.used
}

// Closed reports whether the request has ended here. Work that goes on after
// it is not part of its tree.
func (a *Allotment) Closed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.closed
}

// Free returns how many tokens are free here: less than zero while a credit
// attempt is unpaid.
func (a *Allotment) Free() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.free
}

// Used returns how many extra attempts have been charged so far, here and, as
// far as replies have told, below.
func (a *Allotment) Used() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used
}

// Lease is what one attempt carries of an allotment. The zero value is a lease
// of nothing that is already ended. A Lease is used by one goroutine at a time.
type Lease struct {
	from   *Allotment
	tokens int
	ended  bool
	credit bool
}

// Tokens returns how many tokens the attempt carries.
func (l *Lease) Tokens() int { return l.tokens }

// Settle ends the lease with the callee's report of how many extra attempts
// were made below, and takes back the rest. An attempt that reached no server,
// or whose reply carries no report, has used nothing. A report of more than
// was leased is charged too, within reason, and comes out of what else is free.
func (l *Lease) Settle(now time.Time, used int) {
	used = max(0, min(used, mostPerToken*l.tokens))
	l.end(now, used)
}

// Lost ends the lease of an attempt that reached a server and got no reply:
// nobody can tell what was used of it, so that all of it is charged.
func (l *Lease) Lost(now time.Time) {
	if !l.ended {
		l.credit = l.tokens > 0
		l.end(now, l.tokens)
	}
}

// Credit charges the one extra attempt that may follow a lost reply without a
// token, and reports whether it may. The charge leaves less than nothing free,
// is reported with the rest, and the root pays for it out of later earnings.
//
// There is one credit for each lost reply that held tokens, because a broken
// connection takes all tokens with it though it is just what a retry is for.
func (l *Lease) Credit() bool {
	if !l.credit {
		return false
	}
	l.credit = false
	a := l.from
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.free--
	a.used++
	return true
}

func (l *Lease) end(now time.Time, used int) {
	if l.ended || l.from == nil {
		return
	}
	l.ended = true
	a := l.from
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		if a.purse != nil {
			a.purse.Put(now, l.tokens-used)
		}
		return
	}
	a.leased -= l.tokens
	a.used += used
	a.free += l.tokens - used
}
