// Package request holds the state of an incoming request that its server and its outgoing calls
// share: the tokens that the request may spend, and its failed outgoing calls. A server (package
// inbound) makes a [Request], which is the context of the request's handler. The calls that the
// handler makes (package outbound) find the Request in their context.
package request
