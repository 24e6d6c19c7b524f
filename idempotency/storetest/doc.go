// Package storetest is what every idempotency store must pass: a suite of what
// its states mean, and a check that many clients at once see them in one order.
//
// A store of your own runs it in a test:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) idempotency.Store { return newMyStore(t) })
//	}
//
// The suite waits for leases and retentions to run out, by tenths of a second.
// A store that keeps time with package time may be run in a bubble of
// testing/synctest, where that takes no time at all.
//
// This package is for tests alone. It knows stores by their interface, and
// nothing of gRPC.
package storetest
