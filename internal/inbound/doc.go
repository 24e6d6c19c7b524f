// Package inbound is the server's side of a call. It admits the call: it reads hop-context, computes
// the remaining time, and rejects a call that cannot finish in time. Then it runs the handler,
// through package once if the call is unary, and reports to the caller how many tokens were used and
// whether a failure may be retried.
//
// Package request has the state that the request shares with its outgoing calls.
package inbound
