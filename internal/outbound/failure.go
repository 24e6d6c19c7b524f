package outbound

import (
	"strconv"
	"strings"
	"time"

	"github.com/hopbound/hopbound/internal/wire"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxPushback is the longest time that a call waits because a server says so, with or without a
// deadline.
const maxPushback = 5 * time.Minute

// pushback is what a reply says about retrying.
type pushback struct {
	said  bool
	stop  bool          // do not retry
	after time.Duration // retry after this time, unless stop
}

// parsePushback reads the trailer of a reply. More than one value, and a value that is not a number
// of milliseconds within 31 bits in its shortest form, mean that the call must not be retried.
func parsePushback(trailer metadata.MD) pushback {
	values := trailer[wire.PushbackKey]
	if len(values) == 0 {
		return pushback{}
	}
	ms, err := strconv.ParseInt(values[0], 10, 32)
	if len(values) > 1 || err != nil || ms < 0 || strconv.FormatInt(ms, 10) != values[0] { // a sign, leading zeros
		return pushback{said: true, stop: true}
	}
	return pushback{said: true, after: min(time.Duration(ms)*time.Millisecond, maxPushback)}
}

// isLocal reports whether grpc-go itself has rejected a message: it cannot be encoded, decoded or
// decompressed, or is larger than one side allows. A retry would send the same request, and in most
// cases receive the same response.
//
// Only the text distinguishes such a failure from others. If grpc-go changes the text, the failure is
// treated like any other with its code.
func isLocal(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Internal && st.Code() != codes.ResourceExhausted {
		return false
	}
	return strings.HasPrefix(st.Message(), "grpc: ") || strings.HasPrefix(st.Message(), "trying to send message larger than max")
}

// StaysOpen reports whether an error of RecvMsg has not ended gRPC's stream: a server has sent a second
// response where only one is allowed. The stream's Trailer must not be called then, because gRPC may be
// about to set it. Only the text distinguishes this error from others.
func StaysOpen(err error) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() == codes.Internal && strings.HasPrefix(st.Message(), "cardinality violation: expected <EOF>")
}

// isDrop reports whether a load-balancing policy of gRPC's xDS has dropped the call to protect its
// target. gRPC does not retry such a call either.
func isDrop(err error) bool {
	st, ok := status.FromError(err)
	return ok && st.Code() == codes.Unavailable && st.Message() == "RPC is dropped"
}
