// Package shop is the services of the payment system. Each runs in a process of its own:
//
//	customer → gateway → orders → payments → ledger
//	              ↓         ↓
//	             bank ←─────┘ (later, if it could not be charged at once)
//
// The gateway stores outcomes in Redis, under leases. Orders, payments and the ledger store theirs in PostgreSQL, in the
// transactions of their own writes. Only the bank is somebody else's: it does not use Hopbound.
package shop
