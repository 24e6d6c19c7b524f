// Package health keeps connections alive, tells clients which servers are healthy, and stops servers without losing
// calls. It uses what gRPC has for that, with settings that fit together.
//
//	server, err := health.NewServer(health.WithCheck("store", func(ctx context.Context) error { return pool.Ping(ctx) }))
//	srv := grpc.NewServer(server.ServerOptions()...)
//	stockpb.RegisterStockServer(srv, stock)
//	server.Register(srv)
//	...
//	err = server.Stop(ctx, srv)
//
//	client, err := health.NewClient(health.CheckService(""))
//	conn, err := grpc.NewClient(target, append(client.DialOptions(), creds)...)
//
// # Connections
//
// NAT gateways and load balancers forget a connection that is idle for some minutes, and drop its packets without
// notice. Both ends therefore ping a connection on which they hear nothing, and close it if no answer comes, within
// [DetectWithin]. Calls on a dead connection then fail with UNAVAILABLE, instead of waiting for their deadlines, and new
// ones go to a new connection ([ConnectWithin]). A server closes connections at [MaxConnectionAge], 10 % more or less at random, so that
// clients find new servers.
//
// # States of a service
//
//   - SERVING: every component that it depends on is healthy, as far as is known.
//   - NOT_SERVING: a component is not ([Server.Report], [WithCheck]), or the server stops. Clients with [CheckService]
//     send no calls to that server. If no server is SERVING, their calls fail with UNAVAILABLE.
//
// # Stopping
//
// [Server.Stop] first says NOT_SERVING, waits for [LameDuck] so that load balancers notice it, then lets calls in flight
// finish and accepts no new ones, and at the end of its context cuts the calls that are left.
//
// Nothing but this folder's three files belongs here: doc.go, option.go and health.go. Lame ducks are from the SRE
// book's chapter on load balancing in the datacenter; keepalive is gRFC A8 and A9.
package health
