package wire

// ReportKey is the metadata key of [Report] in trailers.
const ReportKey = "hop-report"

// Report is what a reply brings back to the caller. The zero value reports
// nothing used and no time spent.
type Report struct {
	// Used is the number of extra attempts charged in the callee's subtree.
	Used int

	// Elapsed is the time spent in the server, in microseconds, if HasElapsed.
	Elapsed    int64
	HasElapsed bool

	// Wanting says that the callee declined to repeat a failed attempt for want
	// of tokens alone: a caller that holds some may repeat it.
	Wanting bool

	// Keeps is a hash of the call's method if the server stores the outcomes of its calls under
	// their keys, and HasKeeps says that it does. A report that a hop has copied from its own
	// callee has the hash of another method.
	Keeps    uint64
	HasKeeps bool
}

// Append appends the trailer's value to dst, holding numbers within what
// parses.
func (r *Report) Append(dst []byte) []byte {
	dst = append(dst, version...)
	dst = appendNumber(dst, ";u=", int64(r.Used), MaxCount)
	if r.HasElapsed {
		dst = appendNumber(dst, ";e=", r.Elapsed, MaxMicros)
	}
	if r.Wanting {
		dst = append(dst, ";n=1"...)
	}
	if r.HasKeeps {
		dst = append(dst, ";k="...)
		dst = appendHex(dst, r.Keeps)
	}
	return dst
}

// ParseReport reads a trailer's value. It reports false, and returns the zero
// Report, if the value is malformed.
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
			r.Wanting = n == 1
		case "k":
			r.Keeps, ok = parseHex(text)
			r.HasKeeps = true
		}
		if !ok {
			return Report{}, false
		}
	}
}

// PushbackKey is the trailer by which a server says whether and when to retry (gRFC A6).
const PushbackKey = "grpc-retry-pushback-ms"
