package interceptors

import (
	"context"
	"fmt"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// authenticated returns who the caller has authenticated itself as to the
// transport, or the empty string for all others: the names in its verified
// certificate, or the service account of its ALTS peer.
func authenticated(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	switch info := p.AuthInfo.(type) {
	case credentials.TLSInfo:
		if len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
			return ""
		}
		cert := info.State.VerifiedChains[0][0]
		return fmt.Sprintf("tls %q %q %q %q %q", cert.Subject, cert.URIs, cert.DNSNames, cert.EmailAddresses, cert.IPAddresses)
	case interface{ PeerServiceAccount() string }:
		if account := info.PeerServiceAccount(); account != "" {
			return "alts " + account
		}
	}
	return ""
}
