// Package harness contains the helpers that the tests in the folders next to it share: servers in
// memory, networks that fail, handlers that count their calls, and readers of spans and metrics.
package harness
