// Package services starts the servers that tests of stores need, from the
// binaries on the machine, each on a free port of the loopback and with a folder
// of its own, and stops them when the test ends.
//
// A test is skipped where a binary is missing, and fails there if
// HOPBOUND_REQUIRE_SERVICES is 1. The package is for tests alone.
package services
