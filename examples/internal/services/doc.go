// Package services finds the browser and the Prometheus, and starts the gRPC servers, that tests
// of the examples need. Package idempotency/storetest/services starts the servers that stores
// need.
//
// If a binary is missing, a test is skipped, or fails if HOPBOUND_REQUIRE_SERVICES is 1. The
// package is for tests only.
package services
