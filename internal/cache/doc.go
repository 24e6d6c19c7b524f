// Package cache has the two bounded maps in which the other packages keep what they know of
// methods, targets and senders. [LRU] drops the entry used least recently. [Names] is read
// without a lock, and keeps nothing more once it is full.
package cache
