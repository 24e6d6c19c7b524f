// Package hopconnect is Hopbound for connect-go (connectrpc.com/connect). It carries the deadline, the retry budget and the
// idempotency key of a request over the Connect, gRPC and gRPC-Web protocols. A chain of services may use grpc-go and
// connect-go side by side.
//
// [NewClientInterceptor] is the client's side, and [NewHandlerInterceptor] the server's. Both call the interceptors
// of package interceptors, so that policies, budgets, stores, modes and telemetry are the same as with grpc-go.
//
// What belongs here: how connect-go's requests, responses, streams and errors map to those of grpc-go. The decisions are
// those of package interceptors.
package hopconnect
