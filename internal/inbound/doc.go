// Package inbound is the server's side of a call. It admits the call: it reads hop-context, works
// out the time that is left, and rejects a call that has none. Then it runs the handler, through
// package once if the call is unary, and reports to the caller how many tokens were used and whether
// a failure may be retried.
//
// The state of the request that its outgoing calls share is in package request.
package inbound
