// Package crashtest kills servers and stores at the worst moments, and counts
// what became of each key. It has nothing but tests; the servers that are killed
// are in worker.
package crashtest
