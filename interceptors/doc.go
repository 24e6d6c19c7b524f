// Package interceptors contains the gRPC interceptors of Hopbound. They carry the deadline, the retry
// budget and the idempotency key of a request through every hop of a call chain, and trace every attempt.
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
// those that run after it see each attempt. gRPC's own retries must be off; [Client.DialOptions] turns
// them off. gRPC's transparent retries stay on and are not counted. On a server, only the interceptors
// that authenticate and authorize the caller come before Hopbound's.
//
// The package contains no call logic. docs/architecture.md says which packages do.
package interceptors
