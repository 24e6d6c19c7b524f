package cache

import (
	"container/list"
	"iter"
)

// LRU is a map with a limited number of entries. It is not safe for concurrent use. Make one with
// [NewLRU].
type LRU[K comparable, V any] struct {
	limit  int
	byKey  map[K]*list.Element // of *entry[K, V]
	recent list.List           // the most recently used entry is in front

	dropped int64
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// NewLRU returns an empty map for at most limit entries. A limit below 1 counts as 1.
func NewLRU[K comparable, V any](limit int) *LRU[K, V] {
	return &LRU[K, V]{limit: max(1, limit), byKey: make(map[K]*list.Element)}
}

// Get returns the value of a key and makes its entry the most recently used. If the key has no entry, Get
// stores the value that create returns, and returns it. If the map is full, Get first drops the least
// recently used entry.
func (c *LRU[K, V]) Get(key K, create func() V) V {
	if e, ok := c.byKey[key]; ok {
		c.recent.MoveToFront(e)
		return valueOf[K, V](e).value
	}
	if len(c.byKey) >= c.limit {
		oldest := c.recent.Back()
		delete(c.byKey, valueOf[K, V](oldest).key)
		c.recent.Remove(oldest)
		c.dropped++
	}
	value := create()
	c.byKey[key] = c.recent.PushFront(&entry[K, V]{key, value})
	return value
}

// Dropped returns how many entries were dropped because the map was full.
func (c *LRU[K, V]) Dropped() int64 { return c.dropped }

// Peek returns the value of a key, or false if there is none. It does not count as a use.
func (c *LRU[K, V]) Peek(key K) (value V, ok bool) {
	e, ok := c.byKey[key]
	if ok {
		value = valueOf[K, V](e).value
	}
	return value, ok
}

// Values returns all values, the most recently used first.
func (c *LRU[K, V]) Values() iter.Seq[V] {
	return func(yield func(V) bool) {
		for e := c.recent.Front(); e != nil; e = e.Next() {
			if !yield(valueOf[K, V](e).value) {
				return
			}
		}
	}
}

func valueOf[K comparable, V any](e *list.Element) *entry[K, V] {
	return e.Value.(*entry[K, V]) //nolint:errcheck // the list has no other type of value
}
