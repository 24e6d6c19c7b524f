package main

// The text of the section Real traffic.
const (
	intro = `This section is written by ` + "`go run ./bench/traffic`" + `. All stacks make three attempts on UNAVAILABLE, with exponential
backoff from 10 ms to 100 ms. Each process has a client of its own, and Hopbound has its default settings.

| stack | what it is |
|---|---|
| grpc | grpc-go without retries |
| native | grpc-go with a retryPolicy in its service config |
| native+throttling | the same, with retryThrottling of 10 tokens and a ratio of 0.1 |
| middleware | go-grpc-middleware 2.3.4, interceptors/retry |
| failsafe | failsafe-go 0.9.8, a retry policy with a budget of 10 % of the calls in flight |
| hopbound | Hopbound on all clients and servers |

The services are real grpc-go servers in one process, in the virtual time of testing/synctest. Only the replicas that are
killed run on loopback in real time. The failures are drawn from fixed seeds, so that all stacks meet the same ones. A leaf
takes 3 to 7 ms for a call.

![The share of successful requests against the calls that reach the leaf per request, for each stack, while the leaf of a
chain of five services fails 1, 5, 10, 20, 30 and 50 % of its calls](images/traffic.svg)
`
	aboutOutages = `A bar is what Hopbound must reach in a shape; – means that the shape has none.

### Outages

The numbers are calls that reach the leaf per request of a user.

- ` + "`outage`" + `: a chain of services whose leaf answers UNAVAILABLE from the start. Users make 2,000 requests, 8 at a time.
- ` + "`outage-after-traffic`" + `: a chain of three services with 500 requests per second. The leaf goes down after 20 s.
- ` + "`many-roots`" + `: 500 processes make 0.56 requests per second each. The service that they call is down for 20 s.
- ` + "`plain-hop`" + `: one request to a leaf that is down, below four services, of which the second does not use the stack. It
  copies or does not copy the trailer ` + "`grpc-retry-pushback-ms`" + ` to its own error, and has native retries or none. The worst of 20 runs.
`
	aboutRepairs = `### Failures that a retry repairs

The numbers are the share of requests that succeed and, in parentheses, the calls that reach the leaf per request.

- ` + "`partial`" + `: the leaf of a chain fails 10 % of its calls. Users make 4,000 requests, 64 at a time.
- ` + "`mapped`" + `: the same, and the hops between return every error as INTERNAL.
- ` + "`deep-random`" + `: each of five services fails 5 % of its calls, half of them after its own call to the next service.
- ` + "`fan-out-20`" + `, ` + "`fan-out-100`" + `: a gateway makes 20 (100) calls for each request. 2 % (5 %) of them fail once, and succeed when retried.
- ` + "`http-root`" + `: pages that do not arrive by gRPC make nine calls each. 10 % of the calls fail once; in the variant ` + "`any`" + `, 10 % of all attempts fail.
- ` + "`slow-sibling`" + `: a gateway makes a call that takes 200 ms and, meanwhile, a quick one. One quick call in twenty fails once.
- ` + "`held-watch`" + `: a gateway holds a stream and makes 30 lookups next to it, of which every fifth fails once.
- ` + "`one-of-three-bad`" + `: one of three backends answers UNAVAILABLE to every call. ` + "`ratio=0.5`" + ` is Hopbound with budget.Ratio(0.5).
- ` + "`one-of-three-hangs`" + `: one of three backends never answers. Attempts time out after 100 ms in the stacks that have such a setting.
- ` + "`chart`" + `: the points of the chart above.
`
	aboutMiddle = `### Calls of the busiest middle hop

The numbers are calls per request. More than one means that a hop has retried what the hop below had already retried.
`
	aboutKills = `### Killed replicas

128 users call three replicas of a service, or of three tiers of services, on loopback. A handler takes 10 to 20 ms. One replica
after another is killed, and is back after 300 ms. Clients reconnect within 50 to 200 ms. The numbers are failed requests. Servers
are plain, except in the variants with Hopbound's servers.
`
	aboutStorms = `### Storms

Three hops. The leaf has 4 workers, needs 5 ms for a job, and does not check whether the caller of a job in its queue still
waits. Requests arrive at 0.7 of its capacity with a deadline of 200 ms. For 2 s, its jobs take ten times as long. The numbers are the time from then
on until 99 % of the requests succeed again and, in parentheses, the share that succeeds in the 15 s after the slow spell. The variants set an
attempt timeout or a hedging policy on every client, or limit the queue to 40 jobs. Grpc-go has no attempt timeout, so that its stacks
run without one. The other settings are measured for Hopbound, and for gRPC alone to compare with. Failsafe-go can hedge, but its gRPC
interceptor lets two attempts write to the same reply, which is a data race.
`
)
