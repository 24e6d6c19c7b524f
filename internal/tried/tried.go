// Package tried records the backends that the attempts of one call were sent to.
// The interceptors keep a record with each call, and the load-balancing policy in
// balancer/otherbackend fills it in and obeys it.
package tried

import (
	"slices"
	"sync"
)

// Key is the key under which the context of an attempt holds its call's
// [*Backends].
type Key struct{}

// Backends are the backends that the attempts of one call were sent to. The zero
// value is empty. It is safe for concurrent use.
type Backends struct {
	mu  sync.Mutex
	all []any
}

// Add adds a backend, which must be comparable.
func (b *Backends) Add(backend any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, backend)
}

// Has reports whether an attempt was sent to a backend.
func (b *Backends) Has(backend any) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.all, backend)
}
