package wire

import "strconv"

// ContextKey is the metadata key of [Context] on requests.
const ContextKey = "hop-context"

// Context is what a request carries to the next hop.
//
// The zero value says nothing: no deadline, no time stamp, no budget. Fields
// that have no Has flag are absent when zero.
type Context struct {
	// Deadline is when the reply must be back, less the sender's reserve, in
	// microseconds on the sender's process clock. It means something only with
	// Sent.
	Deadline    int64
	HasDeadline bool

	// Sent is when the attempt was made, in microseconds on the sender's process
	// clock, and ClockID names that clock. The two come together or not at all.
	Sent    int64
	ClockID uint64
	HasSent bool

	// Budget is the number of tokens leased to the callee. Without HasBudget the
	// sender carries no budget, and the callee is the root of its own; a budget
	// of zero is a budget.
	Budget    int
	HasBudget bool

	// Keyed says that the sender only observes, and that the call would carry an
	// idempotency key if it did not.
	Keyed bool

	// Attempt counts the attempts of the sender's call from 1; 0 if unsaid.
	Attempt int
}

// Append appends the header's value to dst. Counts over [MaxCount] are sent as
// MaxCount, and negative numbers as zero, so that what is sent always parses.
func (c *Context) Append(dst []byte) []byte {
	dst = append(dst, version...)
	if c.HasSent {
		if c.HasDeadline {
			dst = appendNumber(dst, ";d=", c.Deadline, MaxMicros)
		}
		dst = appendNumber(dst, ";s=", c.Sent, MaxMicros)
		dst = append(dst, ";c="...)
		dst = appendHex(dst, c.ClockID)
	}
	if c.HasBudget {
		dst = appendNumber(dst, ";b=", int64(c.Budget), MaxCount)
	}
	if c.Attempt > 0 {
		dst = appendNumber(dst, ";a=", int64(c.Attempt), MaxCount)
	}
	if c.Keyed {
		dst = append(dst, ";k=1"...)
	}
	return dst
}

// ParseContext reads a header's value. It reports false, and returns the zero
// Context, if the value is malformed: a reader then goes on as if there were
// no header.
func ParseContext(value string) (Context, bool) {
	var (
		c        Context
		hasClock bool
		f        fields
	)
	if !f.open(value) {
		return Context{}, false
	}
	for {
		key, text, done, ok := f.read()
		if done {
			break
		}
		var n uint64
		switch key {
		case "d":
			n, ok = parseUint(text, MaxMicros)
			c.Deadline, c.HasDeadline = int64(n), true //nolint:gosec // bounded by MaxMicros
		case "s":
			n, ok = parseUint(text, MaxMicros)
			c.Sent, c.HasSent = int64(n), true //nolint:gosec // bounded by MaxMicros
		case "c":
			c.ClockID, ok = parseHex(text)
			hasClock = true
		case "b":
			n, ok = parseUint(text, MaxCount)
			c.Budget, c.HasBudget = int(n), true //nolint:gosec // bounded by MaxCount
		case "a":
			n, ok = parseUint(text, MaxCount)
			c.Attempt = int(n) //nolint:gosec // bounded by MaxCount
			ok = ok && n > 0
		case "k":
			n, ok = parseUint(text, 1)
			c.Keyed = n == 1
		}
		if !ok {
			return Context{}, false
		}
	}
	if !c.HasSent || !hasClock { // a time without its clock tells nothing
		c.Deadline, c.HasDeadline = 0, false
		c.Sent, c.ClockID, c.HasSent = 0, 0, false
	}
	return c, true
}

// appendNumber appends key and n, held within 0 and limit.
func appendNumber(dst []byte, key string, n, limit int64) []byte {
	dst = append(dst, key...)
	return strconv.AppendInt(dst, max(0, min(n, limit)), 10)
}
