// Package deadline holds the arithmetic of a deadline that travels down a chain
// of services.
//
// gRPC sends what remains of a deadline as a timeout, computed before the
// client's queues and started anew at the server: time lost in between is given
// back to the callee, and a server that has lost its caller works on. Hopbound
// sends the absolute deadline and the time of sending beside it, both on the
// sender's own clock, and the receiver takes off what the message was late:
//
//	excess    = clamp((received − sent) − base, 0, maxExcess)
//	remaining = min(gRPC's remaining, (deadline − sent) − excess)
//
// where base is the smallest received − sent seen from that clock in the last
// minute. The clocks of two hosts are never compared, only differences of their
// differences, so that offsets cancel whatever they are. A [Clock] never steps;
// what two clocks may drift apart within the minute is allowed for. So the
// remaining time is never more than what gRPC alone would give, and never less
// than what the caller will still wait, unless the caller's machine is suspended
// while the message is under way: its timers stand still meanwhile, and nothing
// on the wire tells.
//
// # What may enter
//
// This package is pure: the time is passed in, except to [Remaining] and
// [Detach], which are about contexts. It starts no goroutine and knows no gRPC.
// Wall time is only ever read by a Clock; everything else takes the time passed
// on a monotonic clock since a moment of the caller's choice.
//
// Base delays are those of LEDBAT (RFC 6817). Rejecting what has expired, with
// a cap on what may be rejected on suspicion, is from Finagle's DeadlineFilter.
package deadline
