package hophttp

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// defaultMaxBody is how many bytes of the body of a request with a key are kept.
const defaultMaxBody = 1 << 20

// HandlerOption is an option of [NewHandler].
type HandlerOption func(*handler)

// Tenant says who sends a request, so that an idempotency key belongs to this caller, and another caller can use the same
// key for something else. The function returns the empty string for a caller that is not known; the key of its request is
// ignored and the handler does not see it, unless [SharedKeys] allows it. The function must be safe for concurrent use. It
// sees the request as it arrived, so the middleware that verifies who the caller is must come before the handler.
//
// Without Tenant and SharedKeys, the key of a request is ignored unless the caller has a verified TLS certificate, whose
// identity is the tenant.
func Tenant(tenant func(*http.Request) string) HandlerOption {
	return func(h *handler) {
		if tenant == nil {
			h.errs = append(h.errs, errors.New("Tenant: the function is nil"))
		}
		h.tenant = tenant
	}
}

// SharedKeys says that all callers are services of your own. All callers that have no tenant then share their keys: each of
// them can read the response to a key that another has sent.
func SharedKeys() HandlerOption { return func(h *handler) { h.sharedKeys = true } }

// TimeoutHeader lets callers limit the time of a request by a header, such as "X-Request-Timeout-Ms". Its value is a
// number of milliseconds, or a duration such as "1.5s". A value longer than limit counts as limit, and one that is
// malformed or not positive is ignored. The header grpc-timeout is always read, as gRPC sends it. The limit does not apply to
// it; WithMaxDeadline of package interceptors limits both.
func TimeoutHeader(name string, limit time.Duration) HandlerOption {
	return func(h *handler) {
		switch {
		case name == "" || limit <= 0:
			h.errs = append(h.errs, fmt.Errorf("TimeoutHeader(%q, %v): needs a name and a positive duration", name, limit))
		case http.CanonicalHeaderKey(name) == timeoutHeader:
			h.errs = append(h.errs, fmt.Errorf("TimeoutHeader(%q): this header is always read, as gRPC sends it", name))
		case h.timeoutHeader != "":
			h.errs = append(h.errs, fmt.Errorf("TimeoutHeader(%q): given twice", name))
		}
		h.timeoutHeader, h.maxTimeout = name, limit
	}
}

// MaxBody limits the body of a request with an idempotency key whose response is stored. It is kept in memory to compare
// it with later requests of the same key. A larger one is answered with 413. The default is 1 MiB. Without a store, and in
// mode Observe, bodies are neither read nor limited.
func MaxBody(bytes int) HandlerOption {
	return func(h *handler) {
		if bytes <= 0 {
			h.errs = append(h.errs, fmt.Errorf("MaxBody(%d): must be positive", bytes))
		}
		h.maxBody = int64(bytes)
	}
}
