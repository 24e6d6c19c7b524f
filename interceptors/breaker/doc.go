// Package breaker provides a circuit breaker for clients. It stops sending attempts to a target whose calls
// of a method fail or are slow, so that callers fail at once and the target can recover.
//
//	b, err := breaker.New()
//	conn, err := grpc.NewClient(target, append(append(client.DialOptions(), b.DialOptions()...), creds)...)
//
// Put it after Hopbound's client: then each attempt passes the breaker, and Hopbound knows which attempts it
// has refused. A refused attempt costs no token, is not retried, and no hop above retries the failure.
//
// # States
//
// There is one breaker for each target and method. Its state machine is that of
// [github.com/sony/gobreaker/v2].
//
//   - closed: attempts are sent. The breaker opens after a number of failures in a row
//     ([ConsecutiveFailures]), or if too large a share of the attempts of the last [Window] has failed
//     ([FailureRate]) or was slow ([SlowCalls]).
//   - open: attempts are refused with BREAKER_OPEN, until a time has passed ([OpenFor]).
//   - half-open: a few attempts are sent as probes ([Probes]), and others are refused. If all probes succeed
//     and none is slow, the breaker closes. If one fails or is slow, it opens again.
//
// A call fails if its code is one of [Codes]. Other codes, such as NOT_FOUND, are successes of the target. A
// call that was cancelled, or whose failure is marked non-retryable because a hop below the target has failed,
// counts as neither: the breaker of that hop is the one to open. Nor does an attempt that an interceptor after the breaker
// has refused, because there was no place in a bulkhead for example.
//
// Nothing but this folder's three files belongs here: doc.go, option.go and interceptor.go. The idea of a
// circuit breaker is Michael Nygard's (Release It!, 2007).
package breaker
