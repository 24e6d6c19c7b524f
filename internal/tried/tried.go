// Package tried records the backends that the attempts of one call were sent to. The client creates a
// record for each call. The load-balancing policy in balancer/otherbackend adds each attempt's backend, and
// avoids those that it finds in the record.
package tried

import (
	"slices"
	"sync"
)

// Key is the key under which an attempt's context holds the [*Backends] of its call.
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

// Has reports whether an attempt was sent to the backend.
func (b *Backends) Has(backend any) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.all, backend)
}
