// Package stream makes streaming calls: the attempts of a stream, and what is sent again when one of
// them is replaced. The decisions about attempts are those of package outbound.
package stream
