// Package calls tests unary calls end to end: retries, hedges, deadlines, and what a call reports
// when it ends.
package calls
