package interceptors

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

type alts struct{ credentials.CommonAuthInfo }

func (alts) AuthType() string           { return "alts" }
func (alts) PeerServiceAccount() string { return "till@shop" }

// Whoever has authenticated itself has keys of its own, however its certificate
// names it; a certificate that was not verified names nobody.
func TestCallersAreToldApartByWhatTheyHaveProved(t *testing.T) {
	t.Parallel()
	verified := func(c x509.Certificate) credentials.AuthInfo {
		return credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{&c}}}}
	}
	seen := map[string]string{}
	for name, info := range map[string]credentials.AuthInfo{
		"SPIFFE":        verified(x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "shop", Path: "/till"}}}),
		"another":       verified(x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "shop", Path: "/bank"}}}),
		"a host's name": verified(x509.Certificate{DNSNames: []string{"till.shop"}}),
		"two":           verified(x509.Certificate{DNSNames: []string{"till.shop", "bank.shop"}}),
		"a subject":     verified(x509.Certificate{Subject: pkix.Name{CommonName: "till"}}),
		"ALTS":          alts{},
	} {
		got := TransportIdentity(peer.NewContext(context.Background(), &peer.Peer{AuthInfo: info}))
		if got == "" || seen[got] != "" {
			t.Errorf("%s is %q, as is %s", name, got, seen[got])
		}
		seen[got] = name
	}
	for name, ctx := range map[string]context.Context{
		"no peer":     context.Background(),
		"no TLS":      peer.NewContext(context.Background(), &peer.Peer{}),
		"unverified":  peer.NewContext(context.Background(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{{DNSNames: []string{"x"}}}}}}),
		"empty chain": peer.NewContext(context.Background(), &peer.Peer{AuthInfo: verified(x509.Certificate{})}),
	} {
		got := TransportIdentity(ctx)
		if (got != "") != (name == "empty chain") {
			t.Errorf("%s is %q", name, got)
		}
	}
}

// At the edge, somebody must say how callers are told apart, or that they are not.
func TestKeysAtTheEdgeMustHaveATenant(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts []ServerOption
		ok   bool
	}{
		"no tenant":                  {[]ServerOption{AtEdge(), WithIdempotency(idempotency.NewMemory())}, false},
		"no tenant, the other order": {[]ServerOption{WithIdempotency(idempotency.NewMemory()), AtEdge()}, false},
		"for some callers": {[]ServerOption{
			AtEdge(func(*peer.Peer) bool { return false }), WithIdempotency(idempotency.NewMemory()),
		}, false},
		"a tenant": {[]ServerOption{
			AtEdge(), WithIdempotency(idempotency.NewMemory(), idempotency.Tenant(TransportIdentity)),
		}, true},
		"shared keys": {[]ServerOption{
			AtEdge(), WithIdempotency(idempotency.NewMemory(), idempotency.SharedKeys()),
		}, true},
		"no edge":  {[]ServerOption{WithIdempotency(idempotency.NewMemory())}, true},
		"no store": {[]ServerOption{AtEdge()}, true},
	} {
		if _, err := NewServer(tc.opts...); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
