// Package hophttp carries the deadline, the retry budget and the idempotency key of a request over HTTP. [NewHandler] is the server's side: it starts the root of each request at the edge of a system, or continues
// the request of a caller that uses this package. [NewTransport] is the client's side: it retries as Hopbound's gRPC
// client does, from the same budgets.
//
// HTTP requests are calls of the methods of hopbound.v1.HTTPService, such as "/hopbound.v1.HTTPService/Get". These names
// appear in policies, metrics and traces. CONNECT, and methods that neither RFC 9110 nor RFC 5789 defines, share the name
// Other. GET, HEAD, OPTIONS, TRACE, PUT and DELETE are declared safe to repeat (RFC 9110); the others are not.
//
// What belongs here: how HTTP's headers, status codes and bodies map to a call. The decisions are those of package
// interceptors.
package hophttp

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// The headers of HTTP. They have the names and values of gRPC's metadata.
const (
	contextHeader  = "Hop-Context"
	reportHeader   = "Hop-Report"
	keyHeader      = "Idempotency-Key"
	timeoutHeader  = "Grpc-Timeout"
	pushbackHeader = "Grpc-Retry-Pushback-Ms"
	attemptsHeader = "Grpc-Previous-Rpc-Attempts"
)

// otherMethod is the name of all methods that have none of their own, because callers can make up any number of them.
const otherMethod = "/hopbound.v1.HTTPService/Other"

// fullMethod returns the name of the call that a request is.
func fullMethod(method string) string {
	const service = "/hopbound.v1.HTTPService/"
	switch method {
	case "", http.MethodGet:
		return service + "Get"
	case http.MethodHead:
		return service + "Head"
	case http.MethodOptions:
		return service + "Options"
	case http.MethodTrace:
		return service + "Trace"
	case http.MethodPut:
		return service + "Put"
	case http.MethodDelete:
		return service + "Delete"
	case http.MethodPost:
		return service + "Post"
	case http.MethodPatch:
		return service + "Patch"
	}
	return otherMethod
}

// formatTimeout returns a timeout as gRPC sends it: at most eight digits and a unit. It rounds up.
func formatTimeout(d time.Duration) string {
	const most = 99_999_999
	for _, u := range timeoutUnits {
		n := d / u.length
		if d%u.length > 0 {
			n++
		}
		if n <= most {
			return strconv.FormatInt(int64(max(n, 1)), 10) + u.name
		}
	}
	return strconv.Itoa(most) + "H"
}

var timeoutUnits = [...]struct {
	name   string
	length time.Duration
}{{"u", time.Microsecond}, {"m", time.Millisecond}, {"S", time.Second}, {"M", time.Minute}, {"H", time.Hour}, {"n", time.Nanosecond}}

// parseTimeout reads a timeout as gRPC sends it.
func parseTimeout(value string) (time.Duration, bool) {
	const maxDigits = 8
	if len(value) < 2 || len(value) > maxDigits+1 {
		return 0, false
	}
	number, unit := value[:len(value)-1], value[len(value)-1:]
	n, err := strconv.ParseUint(number, 10, 32)
	for _, u := range timeoutUnits {
		if err == nil && unit == u.name {
			return time.Duration(min(n, uint64(math.MaxInt64/u.length))) * u.length, true //nolint:gosec // bounded
		}
	}
	return 0, false
}
