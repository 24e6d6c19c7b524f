// Package faults tests that injected faults look like real ones to clients and servers.
package faults
