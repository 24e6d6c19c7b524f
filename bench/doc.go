// Package bench measures Hopbound beside gRPC without it, in the same run.
//
// The command in bench/overhead repeats the benchmarks and writes the table in
// docs/benchmarks.md.
package bench
