package interceptors_test

import (
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc/peer"
)

// At the edge, an option must say how callers are distinguished, or that they share their keys.
func TestKeysAtTheEdgeMustHaveATenant(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts []interceptors.ServerOption
		ok   bool
	}{
		"no tenant":                  {[]interceptors.ServerOption{interceptors.AtEdge(), interceptors.WithIdempotency(idempotency.NewMemory())}, false},
		"no tenant, the other order": {[]interceptors.ServerOption{interceptors.WithIdempotency(idempotency.NewMemory()), interceptors.AtEdge()}, false},
		"for some callers": {[]interceptors.ServerOption{
			interceptors.AtEdge(func(*peer.Peer) bool { return false }), interceptors.WithIdempotency(idempotency.NewMemory()),
		}, false},
		"a tenant": {[]interceptors.ServerOption{
			interceptors.AtEdge(), interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.Tenant(interceptors.TransportIdentity)),
		}, true},
		"shared keys": {[]interceptors.ServerOption{
			interceptors.AtEdge(), interceptors.WithIdempotency(idempotency.NewMemory(), idempotency.SharedKeys()),
		}, true},
		"no edge":  {[]interceptors.ServerOption{interceptors.WithIdempotency(idempotency.NewMemory())}, true},
		"no store": {[]interceptors.ServerOption{interceptors.AtEdge()}, true},
	} {
		if _, err := interceptors.NewServer(tc.opts...); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
