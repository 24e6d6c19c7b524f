// Package budget holds two bounds on extra attempts, which are retries and hedges. Neither bound
// reserves tokens for requests that do not fail.
//
// A user of the library needs [New] and its options, [NewRoot], [FromContext] and [Budget.Balance]. The
// methods whose comments say "For transports" are for code that carries the budget over a transport
// such as gRPC or HTTP.
//
// # The request budget
//
// The request budget travels with a request. It bounds the extra attempts in the request's whole call
// tree. An [Allotment] is the part of the budget that one hop holds. The root, which is the hop where
// the request begins, starts with PerRequest tokens. Any other hop starts with the tokens that its
// caller lent to it. Each hop earns ratio × the calls that it has made for the request, in whole
// tokens. Every token of an allotment is in one of three states. A free token is available at this hop.
// A lent token is held by a callee whose reply has not arrived. A used token has paid for an extra
// attempt.
//
//	received + earned = free + lent + used
//
// Only these operations change the state of a token:
//
//	receive          -> free   the request arrives, or a root makes its first call
//	earn             -> free   a call starts
//	lend     free    -> lent   the hop makes an attempt
//	settle   lent    -> used   as many as the reply reports; the others become free
//	lost     lent    -> used   all of them, because no reply arrived
//	answered lent    -> free   the stream has started to answer; one token stays lent, and so do
//	                           those that the response header reports as used or lent below
//	spend    free    -> used   the hop is about to make an extra attempt
//	refund   used    -> free   that attempt reached no server
//	release  free    -> caller the hop starts to answer a stream; it keeps one of the tokens that it
//	                           received, and those that it has earned
//	close            -> caller the request ends at this hop; its report says how many were used
//
// If the reply to an attempt that held tokens is lost, the hop may make one extra attempt on credit.
// Such a credit attempt takes no token.
//
// A hop lends half of its free tokens, rounded up, and at least two if it has them. The hop next to a
// failure can therefore make three attempts at any depth. While other calls of the request are in
// flight, the hop keeps one token for itself, and ratio × the number of those calls. A hop reports only
// the tokens that were used beyond those that it earned, so its caller is never charged for more than
// it lent. ADR 0015 proves the bound:
//
//	extra attempts ≤ PerRequest + ratio × calls in the tree + credit attempts
//
// # The target budget
//
// The target budget stays in the process. It bounds the extra attempts that are sent to one target, for
// all requests together. A [Budget] holds the settings of both bounds and one token bucket per target.
// Over any period of time,
//
//	extra attempts ≤ ratio × successes + minPerSecond × seconds + burst
//
// where burst is the number of tokens that the bucket held when the period began. The bucket holds at
// most the larger of Burst and ratio × the successes of the previous second. In an outage nothing
// succeeds, so the bucket earns only minPerSecond, and amplification approaches 1. A failure that is
// not retried because the bucket is empty is marked non-retryable for the hops above, unless the bucket
// is new.
//
// # What belongs here
//
// The package is pure: callers pass the time in. Only [Budget.Balance] reads a clock. The package
// starts no goroutine and does not know gRPC.
//
// Paying for retries with a share of the successes comes from Finagle's RetryBudget and gRFC A6's
// retryThrottling. Charging more for attempts that time out comes from the AWS SDKs. Lending the budget
// to the callee together with the request is this package's own idea.
package budget
