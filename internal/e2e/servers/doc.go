// Package servers tests servers end to end: limits of calls and streams, and the order of
// interceptors.
package servers
