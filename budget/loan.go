package budget

// Loan holds the tokens that one attempt lends to its callee. The zero value is a loan of no tokens, on
// which all methods do nothing. A Loan is not safe for concurrent use.
//
// For transports: a client takes one from [Allotment.Lend] for each attempt.
type Loan struct {
	from     *Allotment
	tokens   int32 // lent when the attempt started
	returned int32 // of these, returned when the stream started to answer
	used     int32 // of these, charged when the loan ended
	ended    bool
	credit   bool
}

// Tokens returns the number of tokens that the attempt was lent.
func (l *Loan) Tokens() int { return int(l.tokens) }

// Used returns how many of the lent tokens were charged. It is 0 until the loan ends.
func (l *Loan) Used() int { return int(l.used) }

// Answered takes back tokens from a stream that has started to answer; used is the number in the
// response header. That many tokens, and one more, stay lent until the loan ends. Answered does nothing
// after the loan has ended, or if tokens were already taken back.
func (l *Loan) Answered(used int) {
	if l.ended || l.from == nil || l.returned > 0 {
		return
	}
	l.returned = max(0, l.tokens-l.clamp(used)-1)
	l.charge(0, l.returned)
}

// Settle ends the loan. The tokens that the callee reports as used are charged, and the others become
// free. Pass 0 for an attempt that reached no server, or whose reply has no report. A number above the
// tokens that were lent counts as all of them, and a negative one as 0.
func (l *Loan) Settle(used int) {
	if l.ended || l.from == nil {
		return
	}
	l.ended = true
	lent := l.tokens - l.returned
	l.used = min(l.clamp(used), lent)
	l.charge(l.used, lent-l.used)
}

// clamp returns a reported number, limited to the tokens that were lent.
func (l *Loan) clamp(used int) int32 {
	return int32(max(0, min(used, int(l.tokens)))) //nolint:gosec // bounded
}

// Lost ends the loan of an attempt that reached a server and got no reply. How many tokens the server
// used is unknown, so all of them are charged.
func (l *Loan) Lost() {
	if l.ended || l.from == nil {
		return
	}
	l.credit = l.tokens > l.returned
	l.Settle(int(l.tokens))
}

// Credit reports whether one extra attempt may be made without a token, because the reply to this
// attempt was lost while it held tokens. It returns true at most once.
//
// Without credit, a retry after a broken connection would take a token in addition to the lent tokens,
// all of which the lost reply costs.
func (l *Loan) Credit() bool {
	credit := l.credit && !l.from.Closed()
	l.credit = false
	return credit
}

// charge changes lent tokens to used and to free ones.
func (l *Loan) charge(used, free int32) {
	a := l.from
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed { // Close has counted them as used
		return
	}
	a.lent -= used + free
	a.used += used
	a.free += free
}
