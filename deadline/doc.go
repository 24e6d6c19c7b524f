// Package deadline computes how a deadline changes while a request travels down a chain of services.
//
// A user of the library needs [Remaining], [WithReserve] and [Detach]. The types and functions whose
// comments say "For transports" are for code that carries deadlines over a transport such as gRPC or HTTP.
//
// gRPC sends the remaining time as a timeout. The client computes it before the message is queued, and the
// server restarts the clock when the message arrives. The callee therefore gets back the time that the
// message spent in queues, and may continue to work after its caller has given up. Hopbound also sends the
// absolute deadline and the time of sending, both on the sender's own clock. The receiver deducts the time
// by which the message was late:
//
//	excess    = clamp((received − sent) − base, 0, maxExcess)
//	remaining = min(gRPC's remaining time, (deadline − sent) − excess)
//
// base is the smallest received − sent of that clock in the last minute. The formula compares only
// differences of timestamps, so the offset between the clocks of two hosts cancels out. A [Clock] never
// steps, and [Delays] allows for the drift of two clocks within the minute. The remaining time is never
// longer than gRPC alone would give. It is never shorter than the caller will still wait, minus the
// caller's reserve, with one exception: if the caller's machine is suspended while the message is in
// transit, its timers stop, and the receiver cannot know that.
//
// # What belongs here
//
// The package is pure: callers pass the time in. Only [Remaining] and [Detach] read a clock, because they
// use contexts. The package starts no goroutine and does not know gRPC. Only [Clock.Read] takes a wall
// time. All other times are measured on a monotonic clock, from a start that the caller chooses.
//
// Base delays come from LEDBAT (RFC 6817). Rejecting expired requests, and limiting how many are rejected
// because of a learned minimum, come from Finagle's DeadlineFilter.
package deadline
