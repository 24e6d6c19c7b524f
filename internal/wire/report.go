package wire

// ReportKey is the metadata key of [Report] in trailers.
const ReportKey = "hop-report"

// Report is what a callee reports to its caller with a reply. The zero value reports no used tokens and no
// time.
type Report struct {
	// Used is the number of tokens used for extra attempts in the callee's subtree.
	Used int

	// Elapsed is the time spent in the server, in microseconds, if HasElapsed.
	Elapsed    int64
	HasElapsed bool

	// NoTokens is set if the callee did not retry a failed attempt only because it had no tokens. A
	// caller that has tokens may retry it.
	NoTokens bool

	// HasKeeps is set if the server stores the outcomes of the method's calls under their idempotency
	// keys. Keeps is a hash of the method. A report that a hop has copied from its own callee has the
	// hash of another method.
	Keeps    uint64
	HasKeeps bool
}

// Append appends the trailer's value to dst. Counts above [MaxCount] are sent as MaxCount, and negative
// numbers as 0, so that the value always parses.
func (r *Report) Append(dst []byte) []byte {
	dst = append(dst, version...)
	dst = appendNumber(dst, ";u=", int64(r.Used), MaxCount)
	if r.HasElapsed {
		dst = appendNumber(dst, ";e=", r.Elapsed, MaxMicros)
	}
	if r.NoTokens {
		dst = append(dst, ";n=1"...)
	}
	if r.HasKeeps {
		dst = append(dst, ";k="...)
		dst = appendHex(dst, r.Keeps)
	}
	return dst
}

// ParseReport parses a trailer's value. If the value is malformed, it returns the zero Report and false.
func ParseReport(value string) (Report, bool) {
	var (
		r Report
		f fields
	)
	if !f.open(value) {
		return Report{}, false
	}
	for {
		key, text, done, ok := f.read()
		if done {
			return r, true
		}
		var n uint64
		switch key {
		case "u":
			n, ok = parseUint(text, MaxCount)
			r.Used = int(n) //nolint:gosec // bounded by MaxCount
		case "e":
			n, ok = parseUint(text, MaxMicros)
			r.Elapsed, r.HasElapsed = int64(n), true //nolint:gosec // bounded by MaxMicros
		case "n":
			n, ok = parseUint(text, 1)
			r.NoTokens = n == 1
		case "k":
			r.Keeps, ok = parseHex(text)
			r.HasKeeps = true
		}
		if !ok {
			return Report{}, false
		}
	}
}

// PushbackKey is the metadata key of the trailer in which a server says whether and when to retry
// (gRFC A6).
const PushbackKey = "grpc-retry-pushback-ms"
