// Package bulkhead bounds how many calls run at the same time, at a server or a client, and lets a bounded number
// of further calls wait for a place.
//
//	b, err := bulkhead.New(64)
//	srv := grpc.NewServer(append(server.ServerOptions(), b.ServerOptions()...)...)
//
// At a server, all calls share the places, or those of each method with [PerMethod]. At a client, each target
// has its own. Put it after Hopbound's interceptors: at a server, contexts then have the real deadlines; at a
// client, each attempt takes a place, and one that gets none costs no token.
//
// # States of a call
//
//   - running: it has a place until its handler returns. A call that finds a place free and nobody waiting runs
//     at once.
//   - waiting: it is in the queue, first in, first out. When a place becomes free, the first call whose caller
//     is still waiting ([deadline.Waiting]) gets it. A call leaves the queue at once when its context ends.
//   - rejected with BULKHEAD_FULL: the queue was full, or the call would get its place too late to finish before
//     its deadline. How long it would wait is estimated from how long calls took lately. The error has RetryInfo
//     with this time, and a server sends it as pushback.
//
// A queue without a bound keeps a server busy with requests whose callers have given up, long after the cause is
// gone. This one never starts a call whose caller has gone, and does not accept calls that it cannot serve in time.
//
// With [Adaptive], the number of places follows the latency of calls, by the algorithm of
// [github.com/failsafe-go/failsafe-go/adaptivelimiter].
//
// Streams pass without a place, because some stay open for hours, unless [WithStreams] is given.
//
// Nothing but this folder's three files belongs here: doc.go, option.go and interceptor.go. The bulkhead is Michael
// Nygard's pattern (Release It!, 2007); that a server must not work on requests whose deadline has passed is from the
// SRE book's chapter on cascading failures.
package bulkhead
