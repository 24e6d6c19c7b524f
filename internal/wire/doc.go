// Package wire parses and writes the two values that Hopbound puts into gRPC metadata: hop-context in
// requests, and hop-report in trailers.
//
// The package contains only parsing and writing. It has no clock, no budget and no gRPC. docs/wire.md
// specifies the format, and proto/hopbound/v1/testdata/wire.json has its test vectors. Parsing does not
// allocate. Writing allocates only if the given buffer is too small.
package wire
