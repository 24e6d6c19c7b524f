// Package degrade turns features off while a service is in trouble, so that what matters most keeps working.
//
//	var recommendations = degrade.Feature{Name: "recommendations", OffFrom: degrade.Degraded}
//
//	levels, err := degrade.New()
//	srv := grpc.NewServer(append(server.ServerOptions(), levels.ServerOptions()...)...)
//
//	// in a handler
//	if degrade.Enabled(ctx, recommendations) {
//		reply.Recommended = s.recommend(ctx)
//	}
//
// # Levels
//
// A [Controller] has one level: normal, degraded, minimal or emergency. It follows from three things, of which the worst
// counts:
//
//   - the share of the service's calls that fail ([ErrorRate]) and, if wanted, that are slow ([SlowCalls]), in a window
//   - signals of other parts of the program, such as circuit breakers and stores ([Controller.Signal])
//
// The level rises at once to what these say. It falls by one step when, for a time ([Hold]), the shares have stayed
// below half of that level's threshold and no signal has asked for the level. This hysteresis keeps a level from changing
// back and forth. [Controller.Override] sets a level by hand, until
// [Controller.EndOverride].
//
// A request has the level of its caller, which Hopbound's clients send in hop-context, or that of the service, whichever
// is higher. So a feature that a service far below offers is off for a request that arrived at a service in an emergency.
// At the edge, a caller's level is ignored.
//
// Nothing but this folder's three files belongs here: doc.go, option.go and interceptor.go. Graceful degradation is from
// the SRE book's chapter on cascading failures; levels of which each turns more features off are from Meta's Defcon
// (OSDI 2023).
package degrade
