package cache

import (
	"maps"
	"sync"
	"sync/atomic"
)

// The limits of [Names]. Without them, a peer that sends a new name in each call would fill the memory.
const (
	maxNames   = 4096 // entries
	MaxNameLen = 512  // bytes of a name
)

// Names is a map from names to values. Reading it takes no lock and does not allocate. When it is full, it
// stores no further values. It never stores a value under a name longer than [MaxNameLen]. It is safe for
// concurrent use. The zero value is empty.
type Names[V any] struct {
	values atomic.Pointer[map[string]*V]
	mu     sync.Mutex // held while values is replaced
}

// Get returns the value of a name. If there is none, it returns the value that create returns, and stores
// it within the limits.
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
		if len(*m) >= maxNames {
			return create(name)
		}
		next = maps.Clone(*m)
	}
	v := create(name)
	next[name] = v
	c.values.Store(&next)
	return v
}

// Empty reports whether no value is stored.
func (c *Names[V]) Empty() bool { return c.values.Load() == nil }
