// Package cache contains two maps of limited size, in which other packages keep what they know about
// methods, targets and senders. A full [LRU] drops the entry that was used least recently. A full [Names]
// takes no new entries, and reading it needs no lock.
package cache
