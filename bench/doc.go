// Package bench measures calls with Hopbound and with other stacks in the same run, so that their ratio can be
// reported.
//
// The commands in its folders write docs/benchmarks.md: overhead for healthy calls, hedging for slow ones, stores
// for idempotency stores, and traffic for retries under the traffic of real systems.
package bench
