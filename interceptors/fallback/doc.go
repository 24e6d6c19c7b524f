// Package fallback provides another reply for a call that has failed: from another target, from a cache of earlier
// replies, or a default.
//
//	f, err := fallback.New(fallback.For(pb.Stock_Get_FullMethodName,
//		fallback.Target(replica),
//		fallback.Cache(5*time.Minute, func(_ context.Context, r *pb.GetRequest) string { return r.Item }),
//		fallback.Default(func(_ context.Context, r *pb.GetRequest, _ error) (*pb.GetResponse, error) {
//			return &pb.GetResponse{Item: r.Item}, nil
//		}),
//	))
//	conn, err := grpc.NewClient(target, append(append(f.DialOptions(), client.DialOptions()...), creds)...)
//
// Put it before Hopbound's client: then a call has a fallback only after its retries have failed.
//
// # States of a call
//
//   - primary: the call is made as usual, with a deadline that leaves some time for the fallbacks ([Reserve]). If it
//     succeeds, or fails with a code that is not one of [Codes], the call ends.
//   - falling back: the steps of the method are tried in the order given. The first one that has a reply serves the
//     call. A step that has none is skipped: the other target fails too, there is no cached reply that is young enough,
//     or the default returns an error.
//   - failed: no step had a reply, or the context has ended. The call returns the error of the primary call, unchanged.
//
// A reply of a fallback is marked with [Header], and recorded in the trace and in a metric.
//
// # Another target and the budget
//
// A call to another target is an extra call, like a retry. Within a request it takes one token of the request's budget,
// and is skipped if there is none, so that chains of services with fallbacks do not multiply calls. It costs none while no
// server has seen the call, for example because a circuit breaker is open. Use a breaker with it: then a target
// that is down gets no calls, and the other target gets one for each.
//
// Streams have no fallbacks, because messages that were delivered cannot be taken back.
//
// Nothing but this folder's three files belongs here: doc.go, option.go and interceptor.go. Fallbacks and their order are
// those of Hystrix and failsafe-go; serving stale replies after a failure is RFC 5861's stale-if-error.
package fallback
