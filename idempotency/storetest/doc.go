// Package storetest contains the tests that every idempotency store must pass: a suite for the states
// of a record, and a check that the history of concurrent clients is linearizable. The check compares
// all stores with one model, whatever language their rules are written in.
//
// Run the suite in a test of your own store:
//
//	func TestStore(t *testing.T) {
//		path := newDatabase(t)
//		storetest.Run(t, storetest.Backend{
//			Open:    func(t *testing.T) idempotency.Store { return openMyStore(t, path) },
//			Records: func(t *testing.T) int { return countRecords(t, path) },
//		})
//	}
//
// The suite waits in real time for the ends of leases and retentions, which are tenths of a second.
// For a store whose clock is package time, [CheckLinearizable] also runs in a bubble of
// testing/synctest.
//
// # What may be added
//
// The package is for tests only. It uses the interfaces of package idempotency, and no driver. Package
// services starts the servers that tests of stores need.
package storetest
