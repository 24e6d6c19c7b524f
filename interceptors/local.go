package interceptors

import (
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// unusable reports whether a failure is grpc-go's own verdict on a message: it
// cannot be encoded, decoded or decompressed, or is larger than one side allows.
// Another attempt would send the same request, and mostly get the same response.
//
// grpc-go has no other sign for it than the text. If that changes, such a failure
// is treated like any other with its code.
func unusable(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Internal && st.Code() != codes.ResourceExhausted {
		return false
	}
	return strings.HasPrefix(st.Message(), "grpc: ") || strings.HasPrefix(st.Message(), "trying to send message larger than max")
}

// staysOpen reports whether an error of RecvMsg's has not ended gRPC's stream: it is that of
// a second response where there can be one. Trailer must not be called then, since gRPC may
// be about to set it. grpc-go has no other sign for it than the text.
func staysOpen(err error) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() == codes.Internal && strings.HasPrefix(st.Message(), "cardinality violation: expected <EOF>")
}

// isDrop reports whether a failure is that of a call which a load-balancing policy of
// gRPC's xDS has dropped to protect its target. gRPC does not retry it either.
func isDrop(err error) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() == codes.Unavailable && st.Message() == "RPC is dropped"
}

// ready reports whether the call's connection has a backend. An attempt that failed
// without being sent to one then failed for another reason, such as a token source
// of per-RPC credentials that is down.
func (k *call) ready() bool { return k.conn != nil && k.conn.GetState() == connectivity.Ready }
