// Package wire reads and writes the two values that Hopbound puts into gRPC
// metadata: hop-context on requests and hop-report in trailers.
//
// Only parsing and appending live here: no clock, no budget, no gRPC. The
// format is specified in docs/wire.md, and its test vectors are in
// proto/hopbound/v1/testdata/wire.json. Parsing never allocates and appending
// allocates nothing beyond the buffer it is given.
package wire
