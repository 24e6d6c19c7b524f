package main

import "unicode/utf8"

// limits bound what a file, which may be hostile, can cost.
type limits struct {
	value   int // bytes of JSON of one span, one resource or one name
	nesting int // objects and arrays inside each other
	kept    int // bytes of all spans that are kept, estimated
	reports int // lines on standard error about malformed input
	hops    int // lines of the table of hops
}

func defaultLimits() limits {
	return limits{value: 1 << 20, nesting: 200, kept: 256 << 20, reports: 100, hops: 1000}
}

// maxText is how many bytes are kept of a name or of an attribute.
const maxText = 256

// shorten cuts a text that is longer than maxText, and marks the cut.
func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
