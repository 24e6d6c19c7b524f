// Package keys tests writes with idempotency keys end to end: replays, leases, child keys, and
// failures of a store.
package keys
