package cache

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Bounds of [Names], for callers that make up ever new names.
const (
	maxNames   = 4096 // values
	MaxNameLen = 512  // bytes of a name
)

// Names keeps one value for each name. Reading takes no lock and does not
// allocate. A cache that is full keeps no more, and none keeps a long name.
type Names[V any] struct {
	values atomic.Pointer[map[string]*V]
	mu     sync.Mutex // held while values is replaced
}

// Get returns the value under a name, made by create if there is none.
func (c *Names[V]) Get(name string, create func(name string) *V) *V {
	if m := c.values.Load(); m != nil {
		if v, ok := (*m)[name]; ok {
			return v
		}
	}
	if len(name) > MaxNameLen {
		return create(name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[string]*V{}
	if m := c.values.Load(); m != nil {
		if v, ok := (*m)[name]; ok {
			return v
		}
		if len(*m) > maxNames {
			return create(name)
		}
		next = maps.Clone(*m)
	}
	v := create(name)
	next[name] = v
	c.values.Store(&next)
	return v
}

// Empty reports whether no value is kept.
func (c *Names[V]) Empty() bool { return c.values.Load() == nil }
