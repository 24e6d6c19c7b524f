// Package budget holds the two bounds on extra attempts, that is, on retries and
// hedges. Neither reserves anything for requests that do not fail.
//
// # The request budget
//
// The request budget travels with a request and bounds the extra attempts in its
// whole call tree. An [Allotment] is the part of it that one hop holds. A root
// starts with PerRequest tokens; any other hop starts with the tokens that its
// caller lent to it. Each hop adds ratio × the calls it has made for the request,
// in whole tokens. A token is at one place at a time. It is free (held at this
// hop), lent (to a callee whose reply has not come) or used (charged for good):
//
//	received + earned = free + lent + used
//
// These are the only moves:
//
//	receive          -> free   the request arrives, or a root makes its first call
//	earn             -> free   a call starts
//	lend     free    -> lent   to the next attempt
//	settle   lent    -> used   as much as the reply reports; the rest becomes free
//	lost     lent    -> used   all of it, because no reply came
//	answered lent    -> free   all but one, and what the response header reports as used or
//	                           lent below, because the stream has started to answer
//	spend    free    -> used   an extra attempt is about to be made
//	refund   used    -> free   that attempt reached no server
//	release  free    -> caller this hop starts to answer a stream: it keeps one of
//	                           the tokens it received, and what it has earned
//	close            -> caller the request ends here: the report says what was used
//
// After a lost reply that held tokens, one extra attempt is made on credit, which
// takes no token.
//
// A hop lends half of its free tokens, rounded up, but at least two: the hop next
// to a failure can then make three attempts at any depth. While other calls of the
// request are under way, it keeps one token and ratio × their number for them. A
// hop reports what was used beyond what it earned by itself, so that its caller is
// never charged for more than it lent. ADR 0015 proves the bound:
//
//	extra attempts ≤ PerRequest + ratio × calls in the tree + credit attempts
//
// # The target budget
//
// The target budget stays in the process and bounds the extra attempts that are
// sent to one target, for all requests together. A [Budget] holds the settings of
// both bounds and a token bucket for each target. Over any period of time,
//
//	extra attempts ≤ ratio × successes + minPerSecond × seconds + burst
//
// where burst is what the bucket held when the period began: at most the larger of
// Burst and ratio × the successes of the second before. In an outage nothing
// succeeds, so nothing is earned, and amplification approaches 1. A failure that is
// not retried because the bucket is empty is final for the hops above, too, unless
// the bucket is new.
//
// # What belongs here
//
// The package is pure. It reads no clock but in [NewRoot] and [Budget.Balance],
// starts no goroutine and knows no gRPC. Callers pass the time in.
//
// Paying for retries with a share of the successes is an idea from Finagle's
// RetryBudget and gRFC A6's retryThrottling. Charging more for attempts that time
// out is an idea from the AWS SDKs. Lending the budget to the callee with the
// request is this package's own.
package budget
