// Package services has the browser, the Prometheus and the gRPC servers that tests of the examples
// need. The servers that stores need are in package idempotency/storetest/services.
//
// If a binary is missing, a test is skipped, or fails if HOPBOUND_REQUIRE_SERVICES is 1. The
// package is for tests only.
package services
