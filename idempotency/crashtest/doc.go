// Package crashtest kills servers and stores at the worst moments, and counts
// the outcomes and effects of each key. It contains only tests. The folder
// worker has the server that they kill.
package crashtest
