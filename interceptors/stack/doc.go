// Package stack puts Hopbound and its companions into the right order, and rejects a wrong one.
//
//	client, err := stack.NewClient(
//		stack.Fallback(fallbacks),
//		stack.Retry(hopbound),
//		stack.Breaker(breakers),
//		stack.Bulkhead(places),
//		stack.AttemptTimeout(time.Second),
//		stack.RateLimit(limits),
//		stack.Trace(otelgrpc.NewClientHandler()),
//	)
//	conn, err := grpc.NewClient(target, append(client.DialOptions(), creds)...)
//
// Parts may be left out, except Hopbound's own.
//
// # The order at a client
//
//   - fallback: it serves a call that has failed after all retries.
//   - retry and budget: Hopbound's client makes the attempts; everything below handles a single attempt.
//   - breaker: an attempt that it refuses takes no place in the bulkhead, waits nowhere and costs no token.
//   - bulkhead: the attempt waits for its place here.
//   - attempt timeout: the time in the bulkhead's queue does not count; a wait at the rate limit does.
//   - rate limit: the last thing that can hold an attempt back, so that its tokens are spent for attempts that are sent.
//   - fault: what it injects looks like a failure of the network or the server to all of the above.
//   - trace: a stats handler sees what is really sent.
//
// # The order at a server
//
//   - trace
//   - deadline, budget and key: Hopbound's server gives contexts their deadlines, and replays outcomes.
//   - rate limit: it rejects at once, or holds a call back for a short time.
//   - degrade: methods that are off need no place.
//   - bulkhead: calls wait for a place.
//   - fault: what it injects looks like a failure of the handler.
//
// Nothing but this folder's three files belongs here: doc.go, option.go (the parts) and interceptor.go. The order is that
// of Hystrix and Resilience4j, with the budget instead of a retry that knows nothing of other hops.
package stack
