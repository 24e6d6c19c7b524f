// Package services starts the Redis and PostgreSQL servers that tests of stores need. It runs the
// binaries that are installed on the machine. Each server has a free loopback port and a folder
// of its own, and is stopped when the test ends.
//
// If a binary is missing, a test is skipped, or fails if HOPBOUND_REQUIRE_SERVICES is 1. The
// package is for tests and benchmarks only, and uses no driver.
package services
