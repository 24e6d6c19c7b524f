package once_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"

	"github.com/hopbound/hopbound/internal/once"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

type alts struct{ credentials.CommonAuthInfo }

func (alts) AuthType() string           { return "alts" }
func (alts) PeerServiceAccount() string { return "till@shop" }

// A caller that has authenticated itself has an identity of its own, whatever its certificate names it
// by. A certificate that was not verified gives no identity.
func TestIdentityIsTheOneThatTheTransportVerified(t *testing.T) {
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
		got := once.TransportIdentity(peer.NewContext(context.Background(), &peer.Peer{AuthInfo: info}))
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
		got := once.TransportIdentity(ctx)
		if (got != "") != (name == "empty chain") {
			t.Errorf("%s is %q", name, got)
		}
	}
}
