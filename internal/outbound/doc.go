// Package outbound is the client's side of a call. It makes the attempts of a call within the
// call's policy, its deadline and the two retry budgets. A unary call goes through these files
// in this order; streams (package stream, in the folder below) use the same steps:
//
//	call.go     start: the policy, the request that the call belongs to, the deadline
//	key.go      the idempotency key
//	attempt.go  one attempt: its tokens, its header, its span, its timeout
//	settle.go   what the reply says: tokens used, round trip, whether a server saw the attempt
//	decide.go   retry, or why not; pay.go charges both budgets for a retry
//	call.go     end: the failure is recorded with the request
//
// hedge.go makes several attempts at the same time.
package outbound
