// Package fault injects faults into calls, to test how services handle them: latency, errors, lost replies, streams that
// break off, and clocks that are wrong.
//
//	faults, err := fault.New([]fault.Rule{{Name: "slow stock", Methods: []string{"/stock.v1.Stock/*"}, Share: 0.1, Latency: time.Second}})
//	err = faults.Enable()
//	conn, err := grpc.NewClient(target, append(append(client.DialOptions(), faults.DialOptions()...), creds)...)
//
// Install it after Hopbound's interceptors. At a client, faults then hit single attempts, and what they do is retried,
// counted and traced like real faults. At a server, they hit handlers.
//
// # States
//
//   - off, in the beginning and after [Faults.Disable]: calls pass.
//   - on, after [Faults.Enable]: calls that a [Rule] selects have its faults. Enable returns an error where the
//     environment says that this is production ([Environment]), and the faults stay off.
//
// A rule selects calls by method, by a random share, and by a guard: a secret that a call must carry under the key
// [Header]. A client whose faults are on forwards the guard of the request that its service is handling, so that a request
// can have its faults several services below. The rules that select a call apply in the order given, until one fails the
// call. Of several rules that lose the reply the first applies, and of several that cut a stream the one that cuts first.
//
// Every fault is an event hopbound.fault on the span of the attempt or of the server's call, a count in a metric, and, if
// it is an error, in the message: "injected by fault NAME". The event is on the span of the whole call if the attempt has
// none of its own yet, as with the first attempt of a connection.
//
// Nothing but this folder's files belongs here: doc.go, option.go, rule.go and interceptor.go. The selection by share and by
// header is that of Envoy's fault filter.
package fault
