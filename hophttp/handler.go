package hophttp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	hopboundv1 "github.com/hopbound/hopbound/proto/hopbound/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

type handler struct {
	next  http.Handler
	unary grpc.UnaryServerInterceptor

	observes func(fullMethod string) bool
	stores   func(fullMethod string) bool
	ignored  sync.Once // an idempotency key was ignored

	tenant        func(*http.Request) string // nil if there is none
	sharedKeys    bool
	timeoutHeader string
	maxTimeout    time.Duration
	maxBody       int64
	errs          []error
}

// NewHandler returns a handler that runs next as a request of the server, with the server's options: its deadlines,
// its store of outcomes, its mode and its telemetry. It returns the errors of the options, joined.
//
// At the edge of your system, make the server with [interceptors.AtEdge]. Each request is then a root: all calls that
// next makes with the request's context share one deadline and one retry budget. Otherwise, a request that comes from
// [NewTransport] continues its caller's.
//
// A request fails if its status is 401, 403, 408, 425, 429 or at least 500, or if it is 409 and [WriteError] has written it
// for ABORTED, for example because another request with the same key is still running. A handler that returns without
// writing after its context has ended has failed, too: the status is 499 or 504. So has one whose response would be stored
// and has another length than its Content-Length says: the status is 500. If a failed call has caused the failure, the
// response has the header grpc-retry-pushback-ms: -1, and callers do not retry the request.
//
// All responses of requests that do not fail are outcomes: the server's store keeps them under the request's
// Idempotency-Key, and a repeated request receives the stored response with the header Idempotency-Replayed. Errors of
// Hopbound are answered as [WriteError] does.
//
// A response of up to 16 KiB is held back until next returns, unless next flushes it. Its header can then report the
// tokens that were used, and next may change its headers until it returns. The header of a response that is sent earlier
// reports one token more than were used, because next may still use that one, and never has grpc-retry-pushback-ms: -1.
// With a key and a store, the whole response is held back: flushing has no effect, informational (1xx) responses are not
// sent, and the connection cannot be hijacked.
func NewHandler(server *interceptors.Server, next http.Handler, opts ...HandlerOption) (http.Handler, error) {
	if server == nil || next == nil {
		return nil, errors.New("hophttp.NewHandler: server and next must not be nil")
	}
	h := &handler{next: next, unary: server.UnaryInterceptor(), observes: server.Observes, stores: server.Stores, maxBody: defaultMaxBody}
	for _, opt := range opts {
		if opt == nil {
			h.errs = append(h.errs, errors.New("hophttp.NewHandler: an option is nil"))
			continue
		}
		opt(h)
	}
	if err := errors.Join(h.errs...); err != nil {
		return nil, err
	}
	return h, nil
}

// ServeHTTP serves a request.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method := fullMethod(r.Method)
	stream := &serverStream{method: method}
	response := &response{ResponseWriter: w, stream: stream, started: time.Now(), fromHop: r.Header.Get(contextHeader) != ""}
	response.observed = h.observes(method)
	ctx, cancel := h.deadline(r, response.observed)
	defer cancel()
	md, info := h.metadata(r)
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: address(r.RemoteAddr), AuthInfo: info})
	ctx = metadata.NewIncomingContext(ctx, md)
	ctx = grpc.NewContextWithServerTransportStream(ctx, stream)
	hasKey := len(md[strings.ToLower(keyHeader)]) > 0
	stores := hasKey && h.stores(method)
	request, err := h.request(w, r, hasKey, stores)
	if err != nil {
		writeBodyError(w, err)
		return
	}
	response.keyIgnored = !hasKey && r.Header.Get(keyHeader) != ""
	form := r.MultipartForm
	reply, err := h.unary(ctx, request, &grpc.UnaryServerInfo{Server: h.next, FullMethod: method}, func(ctx context.Context, _ any) (any, error) {
		response.run(ctx)
		if last := r.MultipartForm; last != nil && last != form { // of a run whose transaction was rolled back
			_ = last.RemoveAll()
		}
		r.MultipartForm = form
		run := r.WithContext(ctx)
		if response.keyIgnored && !response.observed { // a proxy would forward it
			run.Header = r.Header.Clone()
			run.Header.Del(keyHeader)
		}
		if stores {
			run.Body = io.NopCloser(bytes.NewReader(request.GetBody()))
		}
		h.next.ServeHTTP(response, run)
		r.Pattern = run.Pattern             // for the middleware outside
		r.MultipartForm = run.MultipartForm // net/http removes its files
		return response.outcome()
	})
	response.end(reply, err)
}

// deadline returns the context of a request with the deadline that its caller has asked for.
func (h *handler) deadline(r *http.Request, observed bool) (context.Context, context.CancelFunc) {
	if observed {
		return r.Context(), func() {}
	}
	timeout, ok := parseTimeout(r.Header.Get(timeoutHeader))
	if own, given := h.ownTimeout(r); given && (!ok || own < timeout) {
		timeout, ok = own, true
	}
	if !ok {
		return r.Context(), func() {}
	}
	return context.WithTimeout(r.Context(), timeout)
}

// ownTimeout returns the timeout in the header of [TimeoutHeader].
func (h *handler) ownTimeout(r *http.Request) (time.Duration, bool) {
	if h.timeoutHeader == "" {
		return 0, false
	}
	value := r.Header.Get(h.timeoutHeader)
	timeout, err := time.ParseDuration(value)
	if ms, notNumber := strconv.ParseUint(value, 10, 31); notNumber == nil {
		timeout, err = time.Duration(ms)*time.Millisecond, nil
	}
	return min(timeout, h.maxTimeout), err == nil && timeout > 0
}

// metadata returns the headers that the server reads, and who the caller is. Credentials are left out, because the
// handler's gRPC calls could forward them.
func (h *handler) metadata(r *http.Request) (metadata.MD, credentials.AuthInfo) {
	md := metadata.MD{}
	for name, values := range r.Header {
		switch name {
		case "Authorization", "Proxy-Authorization", "Cookie":
		default:
			md[strings.ToLower(name)] = values
		}
	}
	tenant := ""
	if h.tenant != nil {
		tenant = h.tenant(r)
	}
	switch {
	case tenant != "":
		return md, caller{tenant: tenant}
	case h.tenant == nil && verified(r.TLS):
		return md, credentials.TLSInfo{State: *r.TLS}
	case !h.sharedKeys && len(md[strings.ToLower(keyHeader)]) > 0:
		delete(md, strings.ToLower(keyHeader))
		h.ignored.Do(func() {
			slog.WarnContext(r.Context(), "hopbound: an idempotency key is ignored, because its caller is unknown; "+
				"set hophttp.Tenant, or hophttp.SharedKeys if all callers are services of your own")
		})
	}
	return md, nil
}

func verified(state *tls.ConnectionState) bool { return state != nil && len(state.VerifiedChains) > 0 }

// request returns what is compared if a key is used again. The body is read only if the outcome is stored.
func (h *handler) request(w http.ResponseWriter, r *http.Request, hasKey, stores bool) (*hopboundv1.HTTPRequest, error) {
	request := &hopboundv1.HTTPRequest{}
	if !hasKey {
		return request, nil
	}
	// As it was sent: middleware outside may have removed a prefix of the path.
	request.Target, request.ContentType = cmp.Or(r.RequestURI, r.URL.RequestURI()), r.Header.Get("Content-Type")
	if fullMethod(r.Method) == otherMethod {
		request.Target = r.Method + " " + request.GetTarget()
	}
	if stores && r.Body != nil {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.maxBody))
		if err != nil {
			return nil, err
		}
		_ = r.Body.Close()
		request.Body = body
	}
	return request, nil
}

// writeBodyError answers a request whose body could not be read.
func writeBodyError(w http.ResponseWriter, err error) {
	p := problem{Status: http.StatusBadRequest, Detail: "the body of the request could not be read"}
	if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
		p = problem{Status: http.StatusRequestEntityTooLarge, Detail: "the body of a request with an idempotency key has a limit of " + strconv.FormatInt(large.Limit, 10) + " bytes"}
	}
	p.write(w)
}

// address is the remote address of a request, which identifies its connection.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// caller is what [Tenant] says of a caller.
type caller struct{ tenant string }

func (c caller) AuthType() string       { return "hophttp" }
func (c caller) CallerIdentity() string { return c.tenant }

// serverStream receives the headers and trailers of a call.
type serverStream struct {
	method string

	mu              sync.Mutex
	header, trailer metadata.MD
}

func (s *serverStream) Method() string { return s.method }

func (s *serverStream) SetHeader(md metadata.MD) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.header = metadata.Join(s.header, md)
	return nil
}

func (s *serverStream) SendHeader(md metadata.MD) error { return s.SetHeader(md) }

func (s *serverStream) SetTrailer(md metadata.MD) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trailer = metadata.Join(s.trailer, md)
	return nil
}
