package main

import "strings"

// row is the result of one shape with one stack.
type row struct {
	Shape       string   `json:"shape"`
	Stack       string   `json:"stack"`
	Success     float64  `json:"success"`
	LeafCalls   float64  `json:"leaf_calls_per_request"`
	MiddleCalls float64  `json:"middle_calls_per_request"`
	Failed      int      `json:"failed"`
	Requests    int      `json:"requests"`
	Recovery    *float64 `json:"-"` // seconds until a storm is over

	TwiceBad int     `json:"-"` // calls that reached the bad backend more than once
	Settled  float64 `json:"-"` // success in the last third of a storm
	Note     string  `json:"-"` // for the text table
}

// newRow returns the row of users' requests, with the calls that reached the leaf and
// the busiest hop above it.
func newRow(shape string, o outcome, leafCalls, middleCalls int64) row {
	n := float64(max(1, o.requests))
	return row{
		Shape:       shape,
		Success:     1 - float64(o.failed)/n,
		LeafCalls:   float64(leafCalls) / n,
		MiddleCalls: float64(middleCalls) / n,
		Failed:      o.failed,
		Requests:    o.requests,
	}
}

// family returns the part of a shape's name before the first slash.
func family(shape string) string {
	name, _, _ := strings.Cut(shape, "/")
	return name
}
