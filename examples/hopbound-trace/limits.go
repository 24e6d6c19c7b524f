package main

import "unicode/utf8"

// limits limit the memory and the output that a hostile file can cause.
type limits struct {
	value   int // bytes of the JSON of one span, one resource or one name
	nesting int // levels of objects and arrays
	kept    int // estimated bytes of all spans that are kept
	reports int // lines on standard error about malformed input
	hops    int // lines in the table of hops
}

func defaultLimits() limits {
	return limits{value: 1 << 20, nesting: 200, kept: 256 << 20, reports: 100, hops: 1000}
}

// maxText is the number of bytes that are kept of a name or an attribute.
const maxText = 256

// shorten shortens a text that is longer than maxText, and appends an ellipsis.
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
