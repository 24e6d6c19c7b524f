// Package modes tests that clients and servers in mode Observe change nothing and count what they
// would have done.
package modes
