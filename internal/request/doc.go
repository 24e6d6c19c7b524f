// Package request holds the state of an incoming request that its server and its outgoing calls
// share: the tokens that it may spend, and what became of the calls that failed. A server (package
// inbound) makes it, and it is the context of the request's handler. The calls that the handler
// makes (package outbound) find it there.
package request
