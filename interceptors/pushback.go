package interceptors

import (
	"strconv"
	"time"

	"google.golang.org/grpc/metadata"
)

// pushbackKey is the trailer by which a server says whether and when to retry
// (gRFC A6).
const pushbackKey = "grpc-retry-pushback-ms"

// previousAttemptsKey is the header that counts the attempts before this one
// (gRFC A6).
const previousAttemptsKey = "grpc-previous-rpc-attempts"

// maxPushback is the longest that a call without a deadline waits because a server
// says so.
const maxPushback = 5 * time.Minute

// pushback is what a reply says about retrying.
type pushback struct {
	said  bool
	stop  bool          // do not retry
	after time.Duration // retry after this, unless stop
}

// parsePushback reads a reply's trailer. More than one value, and one that is
// no number of milliseconds within 31 bits in its shortest form, says not to
// retry.
func parsePushback(trailer metadata.MD) pushback {
	values := trailer[pushbackKey]
	if len(values) == 0 {
		return pushback{}
	}
	ms, err := strconv.ParseInt(values[0], 10, 32)
	if len(values) > 1 || err != nil || ms < 0 || strconv.FormatInt(ms, 10) != values[0] { // a sign, leading zeros
		return pushback{said: true, stop: true}
	}
	return pushback{said: true, after: min(time.Duration(ms)*time.Millisecond, maxPushback)}
}
