// Package ratelimit limits how many calls a server accepts in a second, of all callers and of each caller, or how
// many a client sends to each target. A client also slows down when a target asks it to.
//
//	l, err := ratelimit.New(ratelimit.Rate(1000, 100), ratelimit.PerCaller(50, 20, caller))
//	srv := grpc.NewServer(append(server.ServerOptions(), l.ServerOptions()...)...)
//
// Put it after Hopbound's interceptors: at a server, contexts then have the real deadlines; at a client, each attempt
// takes a token of the rate, and an attempt that is refused costs no token of the retry budget.
//
// # What happens to a call
//
// Each rate is a token bucket (golang.org/x/time/rate). A call takes a token of each. If there is none, the call waits
// until there is one, if its deadline leaves enough time and [MaxWait] allows it; calls get their tokens in the order
// in which they came. Otherwise it takes no token and ends at once with RATE_LIMITED, with the time that it would have
// waited as RetryInfo, and a server sends that time as pushback.
//
// At a client, a failure RESOURCE_EXHAUSTED with RetryInfo stops further calls to its target for that time, at most for
// [MaxSlowdown]. They wait or are refused, as above. HTTP clients do the same after 429 with Retry-After.
//
// A stream takes its tokens when it starts.
//
// Nothing but this folder's three files belongs here: doc.go, option.go and interceptor.go. go-grpc-middleware's
// interceptor for rate limits is not used, because it replaces the status of a rejection and so loses RetryInfo.
package ratelimit
