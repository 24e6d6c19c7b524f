// Package interop tests hops that are not this library over gRPC: hops in other languages, proxies, and other
// protocols. The Go hop runs the same tests, because it defines what the others must do. The tests of this folder
// write docs/interop.md.
package interop
