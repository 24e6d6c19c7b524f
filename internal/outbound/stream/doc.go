// Package stream makes streaming calls: it makes the attempts of a stream, and sends the messages
// again when an attempt is replaced. Package outbound makes the decisions about attempts.
package stream
