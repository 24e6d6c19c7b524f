// Package interceptors puts deadlines, retry budgets and idempotency keys on
// gRPC calls. It is the one place where gRPC meets the packages deadline,
// budget and idempotency.
//
// Put a [Client] on every connection and a [Server] on every server of a call
// chain. A unary call then reads as a straight line, and each step is a file:
//
//	client   plan     the method's policy, the allotment, the deadline   plan.go
//	         attempt  loan, header, span, invoke, settle                 attempt.go
//	         decide   done, or retry and when, or why not                decide.go
//	server   admit    header, deadline, edge                             admit.go
//	         claim    the handler runs once for the call's key            claim.go
//	         handler
//	         report   what was used, and whether to retry                report.go
//
// # Beside other interceptors
//
// The client's interceptor makes the attempts of a call: interceptors that run
// before it see one call, those that run after it see each attempt. It goes
// with retries of gRPC's own turned off, which [Client.DialOptions] does;
// transparent retries stay, and are not counted. On a server, only interceptors that
// authenticate and authorize the caller come before Hopbound's.
//
// For streams the same holds; what is theirs alone is in stream.go.
package interceptors
