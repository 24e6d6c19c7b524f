package hophttp

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	hopboundv1 "github.com/hopbound/hopbound/proto/hopbound/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxHeld is how many bytes of a response are held back until the handler returns.
const maxHeld = 16 << 10

// response holds back the response of a handler until it is known how many tokens were used, and whether the response
// is the outcome of the request's key. Its states are held, sent and hijacked. It is held until it is larger than
// maxHeld, or the handler flushes or returns.
type response struct {
	http.ResponseWriter
	stream  *serverStream
	started time.Time
	fromHop bool // the caller has sent a hop-context, and reads a report

	observed   bool // nothing changes what the handler answers
	keyIgnored bool // the caller has sent a key, and is unknown

	allotment *budget.Allotment
	lent      int             // tokens that the caller has lent; 0 at a root
	ctx       context.Context //nolint:containedctx // of the run
	stored    bool            // a store keeps the outcome, so that all of the response is held back
	header    http.Header     // of a stored outcome; the writer's own otherwise

	problem  *problem // that WriteError has written
	status   int
	body     bytes.Buffer
	sent     bool
	hijacked bool
}

// run prepares for the run of the handler with context ctx. It forgets an earlier run, whose transaction was rolled back.
func (r *response) run(ctx context.Context) {
	r.ctx = ctx
	if r.allotment, _ = budget.FromContext(ctx); r.allotment != nil {
		r.lent = r.allotment.Free()
	}
	r.problem, r.status = nil, 0
	r.body.Reset()
	r.header = r.ResponseWriter.Header()
	if grpc.ServerTransportStreamFromContext(ctx) != grpc.ServerTransportStream(r.stream) {
		r.stored = true // the server holds back what the handler sets
		r.header = http.Header{}
	}
}

// Header returns the header of the response.
func (r *response) Header() http.Header { return r.header }

// WriteHeader sets the status of the response. A second call has no effect.
func (r *response) WriteHeader(status int) {
	informational := status < http.StatusOK && status != http.StatusSwitchingProtocols
	switch {
	case status < 100 || status > 999:
		r.ResponseWriter.WriteHeader(status) // panics, as net/http does
	case informational && !r.stored:
		r.ResponseWriter.WriteHeader(status)
	case !informational && r.status == 0:
		r.status = status
	}
}

// Write writes a part of the body.
func (r *response) Write(part []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if r.sent {
		return r.ResponseWriter.Write(part)
	}
	n, err := r.body.Write(part)
	if r.body.Len() > maxHeld && !r.stored {
		err = r.send()
	}
	return n, err
}

// FlushError sends what was held back, unless a store keeps the outcome.
func (r *response) FlushError() error {
	if r.stored {
		return nil
	}
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if err := r.send(); err != nil {
		return err
	}
	return http.NewResponseController(r.ResponseWriter).Flush()
}

// Flush is FlushError without an error.
func (r *response) Flush() { _ = r.FlushError() }

// Unwrap returns the writer below, for [http.ResponseController].
func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Hijack takes over the connection, unless a store keeps the outcome.
func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if r.stored {
		return nil, nil, http.ErrNotSupported
	}
	if r.status != 0 { // net/http sends the header first if the handler has written it
		if err := r.send(); err != nil {
			return nil, nil, err
		}
	}
	conn, buffer, err := http.NewResponseController(r.ResponseWriter).Hijack()
	r.hijacked = err == nil
	return conn, buffer, err
}

// send sends what was held back, while the handler is still running. The report is final: it contains the tokens that
// the handler may still use.
func (r *response) send() error {
	if r.sent {
		return nil
	}
	r.header.Del(reportHeader) // the handler may have forwarded that of a service below
	if r.fromHop && r.allotment != nil {
		used := r.lent
		if owed, released := r.allotment.Release(); released {
			used = owed + 1
		}
		r.header.Set(reportHeader, fmt.Sprintf("1;u=%d;e=%d", used, time.Since(r.started).Microseconds()))
	}
	return r.sendHeld()
}

func (r *response) sendHeld() error {
	r.sent = true
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.ResponseWriter.WriteHeader(r.status)
	_, err := r.ResponseWriter.Write(r.body.Bytes())
	r.body = bytes.Buffer{}
	return err
}

// failure is the error of a request whose response says that it failed.
type failure struct {
	status   *status.Status
	response *response
}

func (f *failure) Error() string { return "hophttp: the handler answered " + f.status.Message() }

// GRPCStatus returns the status of the request, for telemetry and stores.
func (f *failure) GRPCStatus() *status.Status { return f.status }

// outcome returns the result of the handler.
func (r *response) outcome() (any, error) {
	switch ended := r.ctx.Err(); {
	case ended != nil && r.status == 0 && !r.hijacked && !r.observed: // the handler has given up
		WriteError(r, ended)
	case r.stored && !r.isComplete():
		r.status = 0
		r.body.Reset()
		WriteError(r, status.Error(codes.Internal, "the response is shorter or longer than its Content-Length"))
	case r.status == 0 && !r.hijacked:
		r.status = http.StatusOK
	}
	if st := failureOf(r.status, r.hopboundProblem()); st != nil {
		if st.Code() == codes.Unimplemented {
			st = status.New(codes.Unknown, st.Message()) // a store keeps UNIMPLEMENTED as an outcome, but could not keep the response
		}
		return nil, &failure{status: st, response: r}
	}
	if !r.stored {
		return nil, nil //nolint:nilnil // the response is held
	}
	reply := &hopboundv1.HTTPResponse{Status: int32(r.status), Body: r.body.Bytes()} //nolint:gosec // three digits
	for _, name := range slices.Sorted(maps.Keys(r.header)) {
		reply.Headers = append(reply.Headers, &hopboundv1.HTTPHeader{Name: name, Values: r.header[name]})
	}
	return reply, nil
}

// hopboundProblem returns the problem of Hopbound in the response, or nil. One of 409 that cannot be read is taken for
// Hopbound's, because an answer such as IN_PROGRESS must not be stored.
func (r *response) hopboundProblem() *problem {
	switch {
	case r.problem != nil && r.problem.Status == r.status:
		if !strings.HasPrefix(r.problem.Type, reasonType) {
			return nil
		}
		return r.problem
	case !isProblem(r.header):
		return nil
	case r.header.Get("Content-Encoding") != "":
		return &problem{}
	default:
		return parse(r.body.Bytes())
	}
}

// isComplete reports whether the body has the length that the header says. Responses to HEAD and with 304 have no body.
func (r *response) isComplete() bool {
	length := r.header.Get("Content-Length")
	return length == "" || length == strconv.Itoa(r.body.Len()) || r.stream.method == fullMethod(http.MethodHead) || r.status == http.StatusNotModified
}

// end sends the result of the request: a response, the stored response of an earlier request, or an error.
func (r *response) end(reply any, err error) {
	if r.sent || r.hijacked {
		return
	}
	header := r.ResponseWriter.Header()
	own, _ := err.(*failure) //nolint:errorlint // it is returned as it is
	switch stored, _ := reply.(*hopboundv1.HTTPResponse); {
	case stored != nil:
		for _, h := range stored.GetHeaders() {
			addHeader(header, h.GetName(), h.GetValues())
		}
		r.finish(header)
		r.ResponseWriter.WriteHeader(int(stored.GetStatus()))
		_, _ = r.ResponseWriter.Write(stored.GetBody())
	case err != nil && (own == nil || own.response != r):
		r.finish(header)
		p := problemOf(err)
		if p.Reason == interceptors.ReasonKeyMissing && r.keyIgnored {
			p.Detail = "the idempotency key was ignored, because its caller is unknown"
		}
		p.write(r.ResponseWriter)
	default:
		if r.stored {
			for name, values := range r.header {
				addHeader(header, name, values)
			}
		}
		r.finish(header)
		_ = r.sendHeld()
	}
}

// addHeader sets a header that the handler has set. Lists are added to those of the middleware before it.
func addHeader(header http.Header, name string, values []string) {
	if name == "Set-Cookie" || name == "Vary" {
		values = slices.Concat(header[name], values)
	}
	header[name] = values
}

// finish sets the headers that the server has for the caller. A report that the handler has forwarded is dropped.
func (r *response) finish(header http.Header) {
	header.Del(reportHeader)
	r.stream.mu.Lock()
	defer r.stream.mu.Unlock()
	for _, md := range []metadata.MD{r.stream.header, r.stream.trailer} {
		for key, values := range md {
			if name := http.CanonicalHeaderKey(key); name != reportHeader || r.fromHop {
				header[name] = values
			}
		}
	}
	if ms, err := strconv.ParseInt(header.Get(pushbackHeader), 10, 32); err == nil && ms >= 0 && header.Get("Retry-After") == "" {
		header.Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
}
