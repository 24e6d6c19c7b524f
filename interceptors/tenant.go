package interceptors

import (
	"context"
	"fmt"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// TransportIdentity returns who the caller of an incoming call has authenticated itself as
// to the transport, or the empty string if it has not: by its verified certificate or, with
// ALTS, its service account. A certificate names its caller by the first of these that it
// has: URIs, as SPIFFE has them, a subject, names of hosts. They are the same for all
// instances of a service, where addresses are not. See [idempotency.Tenant].
func TransportIdentity(ctx context.Context) string {
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
		switch {
		case len(cert.URIs) > 0:
			return fmt.Sprintf("uri %q", cert.URIs)
		case cert.Subject.String() != "":
			return fmt.Sprintf("subject %q", cert.Subject)
		default:
			return fmt.Sprintf("names %q %q", cert.DNSNames, cert.EmailAddresses)
		}
	case interface{ PeerServiceAccount() string }:
		if account := info.PeerServiceAccount(); account != "" {
			return "alts " + account
		}
	}
	return ""
}
