package main

import "unicode/utf8"

// limits limit the memory and the output that a hostile file can cause.
type limits struct {
	value    int // bytes of the JSON of one span, one resource or one name
	nesting  int // levels of objects and arrays
	kept     int // estimated bytes of all spans that are kept, packed
	request  int // estimated bytes of the spans of one request, unpacked
	reports  int // lines on standard error about malformed input
	hops     int // lines in the table of hops
	list     int // lines in the list of requests without flags
	selected int // lines in the list of requests that flags select
}

func defaultLimits() limits {
	return limits{value: 1 << 20, nesting: 200, kept: 144 << 20, request: 48 << 20, reports: 100, hops: 1000, list: 20, selected: 1000}
}

// maxMemory is the size of the heap from which the garbage collector works harder, so that the process stays below
// 300 MB with the default limits.
const maxMemory = 240 << 20

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
