package hophttp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type transport struct {
	base  http.RoundTripper
	unary grpc.UnaryClientInterceptor
}

// NewTransport returns a transport that makes requests as calls of the client, through base. If base is nil, it is
// [http.DefaultTransport].
//
// The client's policies, budgets, mode and telemetry apply: a request is retried if its attempt failed with a code that
// its policy retries, it is safe to repeat, and both budgets have a token. 425, 502 and 503 count as UNAVAILABLE,
// 429 and 503 with the reason STORE_FULL or BULKHEAD_FULL as RESOURCE_EXHAUSTED, 504 as DEADLINE_EXCEEDED, and an error of
// base that is not the context's as UNAVAILABLE. A request is safe to repeat because of its method, its policy or its
// Idempotency-Key header. A handler that runs under a key gives its POST and PATCH requests child keys; base finds them
// under the name "idempotency-key" in the map of the header. [idempotency.WithStep] names the requests of a handler that makes
// several at the same time. A body can be sent again only if the request has GetBody, as those of [http.NewRequest] with a
// buffer, a reader of bytes or a reader of a string have.
//
// A pushback, and Retry-After of a response with 429 or 503, is the pause before the next attempt. If the attempts end
// with a response, the transport returns that response; [ErrorOf] makes an error of it. Errors have a gRPC status: those of
// base, which they wrap, and those that Hopbound makes, for example because the deadline has passed. If the context of the
// request has ended, the error also wraps the context's.
//
// The timeout of a policy, and that of an attempt, last until the response's header arrives. After that, only the context
// of the request limits how long the body may be read. Requests are not hedged. [http.Transport] itself repeats a request
// that may be repeated if its connection breaks after an earlier request; this counts as one attempt.
//
// The transport is safe for concurrent use. Its target is the scheme and host of the URL.
func NewTransport(client *interceptors.Client, base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{base: base, unary: client.UnaryInterceptor()}
}

// RoundTrip makes a request.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	opts := []grpc.CallOption{interceptors.Target(r.URL.Scheme + "://" + r.URL.Host)}
	if r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		opts = append(opts, interceptors.NoRetry())
	}
	md := metadata.MD{} // not that of the context, which is for calls of gRPC
	if keys := r.Header.Values(keyHeader); len(keys) > 0 {
		md[strings.ToLower(keyHeader)] = keys
	}
	c := call{transport: t, request: r}
	var response *http.Response // what a unary call's reply is
	err := t.unary(metadata.NewOutgoingContext(r.Context(), md), fullMethod(r.Method), r, &response, nil, c.attempt, opts...)
	if c.attempts == 0 && r.Body != nil {
		_ = r.Body.Close()
	}
	failed := (*attemptError)(nil)
	switch {
	case err == nil:
		return response, nil
	case errors.As(err, &failed) && failed.response != nil:
		return failed.response, nil
	case failed != nil:
		return nil, failed
	}
	c.discard()
	st := status.Convert(err)
	if ended := r.Context().Err(); ended != nil {
		err = fmt.Errorf("%w: %w", ended, err)
	}
	return nil, &attemptError{err: err, status: st}
}

// call is a request with its attempts.
type call struct {
	transport *transport
	request   *http.Request
	attempts  int
	failed    *http.Response // of the last attempt
	lifetime  *lifetime      // of failed
}

// discard reads the last failed response, so that its connection can be used again. It does not read for long.
func (c *call) discard() {
	if c.failed != nil {
		const maxBytes, maxTime = 64 << 10, 50 * time.Millisecond
		late := time.AfterFunc(maxTime, c.lifetime.cancel)
		_, _ = io.CopyN(io.Discard, c.failed.Body, maxBytes)
		late.Stop()
		_ = c.failed.Body.Close()
		c.failed = nil
	}
}

// attemptError is the error of an attempt, which is a response that says so or an error of the transport below, or an error
// that Hopbound has made.
type attemptError struct {
	response *http.Response
	err      error
	status   *status.Status
}

func (f *attemptError) Error() string              { return f.status.Message() }
func (f *attemptError) Unwrap() error              { return f.err }
func (f *attemptError) GRPCStatus() *status.Status { return f.status }

// Timeout is what [url.Error] asks.
func (f *attemptError) Timeout() bool {
	timeout := (interface{ Timeout() bool })(nil)
	return f.status.Code() == codes.DeadlineExceeded || errors.As(f.err, &timeout) && timeout.Timeout()
}

// attempt makes one attempt. It is what gRPC is for a call of gRPC.
func (c *call) attempt(ctx context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) (err error) {
	c.discard()
	c.attempts++
	answer := answer{}
	defer func() { answer.copyTo(opts, err) }()
	request, err := c.prepare(ctx)
	if err != nil {
		return err
	}
	lifetime := newLifetime(ctx, c.request.Context())
	response, err := c.transport.base.RoundTrip(request.WithContext(httptrace.WithClientTrace(lifetime, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { answer.connected(info.Conn.RemoteAddr()) },
	})))
	if err != nil {
		lifetime.end()
		if !isDial(err) {
			answer.connected(address(request.URL.Host)) // a transport below may not report its connections
		}
		return transportFailure(ctx, err)
	}
	answer.connected(address(request.URL.Host))
	answer.read(response)
	problem, err := readProblem(response)
	if err != nil {
		lifetime.end()
		return err
	}
	lifetime.untilClosed(response)
	if st := failureOf(response.StatusCode, parse(problem)); st != nil {
		c.failed, c.lifetime = response, lifetime
		return &attemptError{response: response, status: st}
	}
	*reply.(**http.Response) = response //nolint:errcheck // RoundTrip made it
	return nil
}

// prepare returns the request of an attempt.
func (c *call) prepare(ctx context.Context) (*http.Request, error) {
	request := c.request.Clone(ctx)
	request.Trailer = c.request.Trailer // which the application fills while the body is read
	if c.attempts > 1 && c.request.GetBody != nil {
		body, err := c.request.GetBody()
		if err != nil {
			return nil, &attemptError{err: err, status: status.New(codes.Internal, err.Error())}
		}
		request.Body = body
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	if len(md[strings.ToLower(contextHeader)]) == 0 { // the client is installed twice, and this is an attempt of the outer transport
		return request, nil
	}
	if request.Header == nil {
		request.Header = http.Header{}
	}
	for _, name := range []string{contextHeader, reportHeader, attemptsHeader, timeoutHeader, keyHeader} {
		request.Header.Del(name) // a service may have forwarded those of its own request
	}
	for key, values := range md {
		name := http.CanonicalHeaderKey(key)
		if name == keyHeader && !slices.Equal(values, c.request.Header[keyHeader]) {
			name = key // net/http repeats a POST if its map has the canonical name, and a child key does not make it safe
		}
		request.Header[name] = values
	}
	if d, ok := ctx.Deadline(); ok {
		request.Header.Set(timeoutHeader, formatTimeout(time.Until(d)))
	}
	return request, nil
}

// transportFailure returns the error of an attempt that has no response.
func transportFailure(ctx context.Context, err error) error {
	st := status.New(codes.Unavailable, err.Error())
	if ended := ctx.Err(); ended != nil {
		st = status.FromContextError(ended)
		if errors.Is(err, context.Canceled) { // that of the lifetime
			err = ended
		}
	}
	return &attemptError{err: err, status: st}
}

// isDial reports whether no connection could be made, so that no server has seen the attempt.
func isDial(err error) bool {
	op := (*net.OpError)(nil)
	return errors.As(err, &op) && op.Op == "dial"
}

// readProblem returns the body of a response that is a problem, and puts it back.
func readProblem(response *http.Response) ([]byte, error) {
	if !isProblem(response.Header) {
		return nil, nil
	}
	const most = 64 << 10
	head, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		_ = response.Body.Close()
		return nil, &attemptError{err: err, status: status.New(codes.Unavailable, err.Error())}
	}
	response.Body = &joinedBody{Reader: io.MultiReader(bytes.NewReader(head), response.Body), Closer: response.Body}
	return head, nil
}

type joinedBody struct {
	io.Reader
	io.Closer
}

// answer is what an attempt tells the client about its reply, as call options of gRPC do.
type answer struct {
	mu      sync.Mutex // a dial may end after the attempt
	addr    net.Addr
	trailer metadata.MD
}

func (a *answer) connected(addr net.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.addr == nil {
		a.addr = addr
	}
}

// read reads the headers of a response that are trailers in gRPC.
func (a *answer) read(response *http.Response) {
	a.trailer = metadata.MD{":status": {strconv.Itoa(response.StatusCode)}} // a response was received
	for _, name := range []string{reportHeader, pushbackHeader} {
		if values := response.Header.Values(name); len(values) > 0 {
			a.trailer[strings.ToLower(name)] = values
		}
	}
	if after, ok := retryAfter(response); ok && len(response.Header.Values(pushbackHeader)) == 0 {
		a.trailer[strings.ToLower(pushbackHeader)] = []string{strconv.FormatInt(after.Milliseconds(), 10)}
	}
}

// retryAfter returns the pause that a response asks for.
func retryAfter(response *http.Response) (time.Duration, bool) {
	if response.StatusCode != http.StatusTooManyRequests && response.StatusCode != http.StatusServiceUnavailable {
		return 0, false
	}
	value := response.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	return max(0, time.Until(at)), err == nil
}

// copyTo gives the answer to the call options that receive it.
func (a *answer) copyTo(opts []grpc.CallOption, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.TrailerCallOption:
			*o.TrailerAddr = a.trailer
		case grpc.PeerCallOption:
			o.PeerAddr.Addr = a.addr
		case grpc.OnFinishCallOption:
			defer o.OnFinish(err)
		}
	}
}
