package once

import (
	"context"
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/hoperr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

// rejection is the error of a call that is rejected because of its key.
type rejection struct {
	reason string
	err    error
}

func rejectKey(reason, message string) *rejection {
	return &rejection{reason, hoperr.New(codes.InvalidArgument, reason, message)}
}

// readKey returns the call's key, or the empty key if it has none, or rejects the call.
func readKey(call *Call, req any) (idempotency.Key, *rejection) {
	values := metadata.ValueFromIncomingContext(call.Request, idempotency.Header)
	if field := call.Method.keyField; len(values) == 0 && field != nil {
		if message, ok := req.(proto.Message); ok {
			if text := message.ProtoReflect().Get(field).String(); text != "" {
				values = []string{text}
			}
		}
	}
	switch {
	case len(values) > 1:
		return "", rejectKey(hoperr.KeyInvalid, "the call has more than one idempotency key")
	case len(values) == 1:
		key, err := idempotency.ParseKey(values[0])
		if err != nil {
			return "", rejectKey(hoperr.KeyInvalid, err.Error())
		}
		return key, nil
	case call.Method.KeyRequired && !call.KeyExpected:
		return "", rejectKey(hoperr.KeyMissing, "the method requires an idempotency key")
	}
	return "", nil
}

// withoutStore returns the context of a handler that runs each time. If the call nevertheless has a
// key, the handler's own calls get child keys of it, because a retry of the call repeats those calls
// too.
func (s *Server) withoutStore(call *Call) context.Context {
	key := call.Request.MetadataKey()
	if key == "" {
		call.Request.WouldRun = call.KeyExpected
		return call.Request
	}
	run := idempotency.HandlerRun{ID: idempotency.NewID(s.tenant(call.Request), call.FullMethod, key), Key: key}
	if s.settings != nil {
		run.Secret = s.settings.ChildSecret
	}
	return idempotency.WithRun(call.Request, run)
}

// tenant returns the tenant to which a call's key belongs.
func (s *Server) tenant(ctx context.Context) string {
	if s.settings != nil && s.settings.Tenant != nil {
		return s.settings.Tenant(ctx)
	}
	return TransportIdentity(ctx)
}

// share returns the tenant whose share of the store a record takes, or the empty string if callers
// are not distinguished.
func (s *Server) share(tenant string) string {
	if tenant == "" && s.settings.Tenant != nil {
		return "(none)" // all callers that the function does not know
	}
	return tenant
}

// TransportIdentity returns the identity that the transport has verified for the caller of an
// incoming call, or the empty string if there is none.
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
	case interface{ CallerIdentity() string }:
		if identity := info.CallerIdentity(); identity != "" {
			return "caller " + identity
		}
	case interface{ PeerServiceAccount() string }:
		if account := info.PeerServiceAccount(); account != "" {
			return "alts " + account
		}
	}
	return ""
}
