// Package interceptors has the gRPC interceptors of Hopbound. They carry the deadline, the retry budget
// and the idempotency key of a request over all hops of a call chain, and trace every attempt.
//
// Install a [Client] on every connection and a [Server] on every server:
//
//	client, err := interceptors.NewClient()
//	conn, err := grpc.NewClient(target, append(client.DialOptions(), creds)...)
//
//	server, err := interceptors.NewServer(interceptors.WithIdempotency(store))
//	srv := grpc.NewServer(server.ServerOptions()...)
//
// # Other interceptors
//
// The client's interceptor makes the attempts of a call. Interceptors that run before it see one call, and
// those that run after it see each attempt. gRPC's own retries must be off, which [Client.DialOptions]
// does; gRPC's transparent retries remain, and are not counted. On a server, only the interceptors that
// authenticate and authorize the caller come before Hopbound's.
//
// This package has no call logic. docs/architecture.md says where it is.
package interceptors
