// Package streams tests streaming calls of a client end to end: retries, replayed messages, and how
// a stream ends.
package streams
