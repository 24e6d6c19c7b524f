// Package storetest has the tests that every idempotency store must pass: a suite
// for its states, and a check that histories of many clients are linearizable.
//
// A store of your own runs it in a test:
//
//	func TestStore(t *testing.T) {
//		path := newDatabase(t)
//		storetest.Run(t, storetest.Backend{
//			Open:    func(t *testing.T) idempotency.Store { return openMyStore(t, path) },
//			Records: func(t *testing.T) int { return countRecords(t, path) },
//		})
//	}
//
// The suite waits in real time for leases and retentions to end, by tenths of a
// second. [CheckLinearizable] alone also runs in a bubble of testing/synctest, for
// a store that keeps time with package time.
//
// This package is for tests only. It uses the interfaces of package idempotency.
package storetest
