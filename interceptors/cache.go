package interceptors

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Bounds of a cache, for clients that name ever new methods or targets.
const (
	cacheLimit   = 4096 // values
	cachedLength = 512  // bytes of a name
)

// cache keeps one value for each name. Reading takes no lock and does not
// allocate. A cache that is full keeps no more, and none keeps a long name.
type cache[V any] struct {
	values atomic.Pointer[map[string]*V]
	mu     sync.Mutex // held while values is replaced
}

// get returns the value under a name, made by create if there is none.
func (c *cache[V]) get(name string, create func(name string) *V) *V {
	if m := c.values.Load(); m != nil {
		if v, ok := (*m)[name]; ok {
			return v
		}
	}
	if len(name) > cachedLength {
		return create(name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[string]*V{}
	if m := c.values.Load(); m != nil {
		if v, ok := (*m)[name]; ok {
			return v
		}
		if len(*m) > cacheLimit {
			return create(name)
		}
		next = maps.Clone(*m)
	}
	v := create(name)
	next[name] = v
	c.values.Store(&next)
	return v
}
