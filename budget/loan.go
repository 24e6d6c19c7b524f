package budget

// Loan is what one attempt carries of an allotment. The zero value is a loan of
// nothing that has ended. One goroutine at a time may use a Loan.
type Loan struct {
	from   *Allotment
	tokens int32 // lent at first
	back   int32 // of these, given back when the stream was answered
	used   int32 // of these, charged in the end
	ended  bool
	credit bool
}

// Tokens returns how many tokens the attempt was lent.
func (l *Loan) Tokens() int { return int(l.tokens) }

// Used returns how many of them were charged.
func (l *Loan) Used() int { return int(l.used) }

// Answered takes back tokens of a stream that has started to answer: all but one and
// those that the response header reports as used or lent, which stay lent until the
// loan ends. It does nothing after that, or when called again.
func (l *Loan) Answered(used int) {
	if l.ended || l.from == nil || l.back > 0 {
		return
	}
	l.back = max(0, l.tokens-l.within(used)-1)
	l.charge(0, l.back)
}

// Settle ends the loan with the callee's report of how many tokens were used, and
// takes back the rest. An attempt that reached no server, or whose reply carries
// no report, has used none. A report of more than was lent counts as all of it.
func (l *Loan) Settle(used int) {
	if l.ended || l.from == nil {
		return
	}
	l.ended = true
	lent := l.tokens - l.back
	l.used = min(l.within(used), lent)
	l.charge(l.used, lent-l.used)
}

// within returns a reported number, held within what was lent.
func (l *Loan) within(used int) int32 {
	return int32(max(0, min(used, int(l.tokens)))) //nolint:gosec // bounded
}

// Lost ends the loan of an attempt that reached a server and got no reply. What
// was used of it is unknown, so that all of it is charged.
func (l *Loan) Lost() {
	if l.ended || l.from == nil {
		return
	}
	l.credit = l.tokens > l.back
	l.Settle(int(l.tokens))
}

// Credit reports whether one extra attempt may be made without a token, because
// the reply to this one was lost and held tokens. It does so once.
//
// A broken connection takes all tokens with it, though it is what a retry is for.
func (l *Loan) Credit() bool {
	credit := l.credit && !l.from.Closed()
	l.credit = false
	return credit
}

// charge moves lent tokens to used and to free.
func (l *Loan) charge(used, free int32) {
	a := l.from
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed { // they count as used already
		return
	}
	a.lent -= used + free
	a.used += used
	a.free += free
}
