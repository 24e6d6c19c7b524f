package wire

import "strconv"

// ContextKey is the metadata key of [Context] on requests.
const ContextKey = "hop-context"

// Context is what a request carries to the next hop.
//
// The zero value has no field: no deadline, no timestamp and no budget. A field without a Has flag is
// absent if it is zero.
type Context struct {
	// Deadline is the time by which the caller needs the reply, minus the sender's reserve, in
	// microseconds on the sender's process clock. It has no meaning without Sent.
	Deadline    int64
	HasDeadline bool

	// Sent is the time when the attempt was sent, in microseconds on the sender's process clock.
	// ClockID identifies that clock. A header has both or neither.
	Sent    int64
	ClockID uint64
	HasSent bool

	// Budget is the number of tokens lent to the callee, which may be 0. Without HasBudget, the sender
	// has no request budget, and the callee is a root.
	Budget    int
	HasBudget bool

	// Keyed is set by a sender in Observe mode if the call would have an idempotency key in Enforce
	// mode.
	Keyed bool

	// Level is how far the request is degraded: 0 is normal, and MaxLevel is the highest.
	Level int

	// Attempt is the number of the attempt in the sender's call, from 1. It is 0 if the header has
	// none.
	Attempt int
}

// Append appends the header's value to dst. Counts above [MaxCount] are sent as MaxCount, and negative
// numbers as 0, so that the value always parses.
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
	if c.Level > 0 {
		dst = appendNumber(dst, ";l=", int64(c.Level), MaxLevel)
	}
	return dst
}

// ParseContext parses a header's value. If the value is malformed, it returns the zero Context and false.
// The receiver then handles the call as if it had no header.
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
		case "l":
			n, ok = parseUint(text, MaxLevel)
			c.Level = int(n) //nolint:gosec // bounded by MaxLevel
		}
		if !ok {
			return Context{}, false
		}
	}
	if !c.HasSent || !hasClock { // timestamps are useless without the clock id
		c.Deadline, c.HasDeadline = 0, false
		c.Sent, c.ClockID, c.HasSent = 0, 0, false
	}
	return c, true
}

// appendNumber appends key and n, which it limits to 0 to limit.
func appendNumber(dst []byte, key string, n, limit int64) []byte {
	dst = append(dst, key...)
	return strconv.AppendInt(dst, max(0, min(n, limit)), 10)
}
