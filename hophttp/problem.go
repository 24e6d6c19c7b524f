package hophttp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// problemType is the media type of RFC 9457.
const problemType = "application/problem+json"

// reasonType is the prefix of the type of a problem with a reason of Hopbound, or with the code ABORTED.
const reasonType = "https://github.com/hopbound/hopbound/blob/main/docs/http.md#"

// problem is an answer in the form of RFC 9457. Reason is the reason of an error of Hopbound.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Reason string `json:"reason,omitempty"`

	retryAfter time.Duration
}

// WriteError answers a request with an error of gRPC or of Hopbound, in the form of RFC 9457 (application/problem+json).
// The status is the usual one for the code, except that KEY_REUSED is 422, as the IETF's Idempotency-Key draft says, and
// STORE_FULL and BULKHEAD_FULL are 503. An error of Hopbound has a member "reason". If the error has a RetryInfo, the
// answer has Retry-After. The answer contains the message of an error of Hopbound, and that of another error if its status
// is 4xx. It does not contain other messages, nor the text of errors that wrap the error, because they may reveal
// internals. A nil error is answered with 500.
//
// Use it in handlers whose gRPC calls fail. If a writer between it and [NewHandler] changes the body, as compression does,
// the writer needs a method Unwrap() http.ResponseWriter, so that the failure is seen.
func WriteError(w http.ResponseWriter, err error) {
	p := problemOf(err)
	if r := responseOf(w); r != nil {
		r.problem = &p // a writer between may compress it
	}
	p.write(w)
}

// responseOf returns the response of a handler that w writes to, or nil if a writer between has no Unwrap.
func responseOf(w http.ResponseWriter) *response {
	for {
		switch inner := w.(type) {
		case *response:
			return inner
		case interface{ Unwrap() http.ResponseWriter }:
			w = inner.Unwrap()
		default:
			return nil
		}
	}
}

func problemOf(err error) problem {
	st := status.Convert(err)
	if own := (interface{ GRPCStatus() *status.Status })(nil); errors.As(err, &own) { // without what wraps it, which may contain internals
		st = own.GRPCStatus()
	}
	if st.Code() == codes.Unknown && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		st = status.FromContextError(err)
	}
	p := problem{Status: statusOf(st.Code())}
	if st.Code() == codes.Aborted {
		p.Type = reasonType + "aborted" // its status is that of ALREADY_EXISTS, too
	}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == interceptors.Domain {
				p.Reason = d.GetReason()
			}
		case *errdetails.RetryInfo:
			p.retryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if p.Reason != "" {
		p.Type = reasonType + strings.ToLower(p.Reason)
	}
	switch p.Reason {
	case interceptors.ReasonKeyReused:
		p.Status = http.StatusUnprocessableEntity
	case interceptors.ReasonStoreFull, interceptors.ReasonBulkheadFull:
		p.Status = http.StatusServiceUnavailable
	}
	if p.Reason != "" || p.Status < http.StatusInternalServerError {
		p.Detail = strings.TrimPrefix(st.Message(), "hopbound: ")
	}
	return p
}

// write sends the problem.
func (p problem) write(w http.ResponseWriter) {
	p.Type, p.Title = cmp.Or(p.Type, "about:blank"), http.StatusText(p.Status)
	if p.Status == statusClientClosed {
		p.Title = "Client Closed Request"
	}
	if p.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.retryAfter.Seconds()))))
	}
	w.Header().Del("Content-Length") // of the response that the handler had prepared
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) //nolint:errchkjson // fails if the client has gone
}

// ErrorOf returns the error of a response that [NewTransport] has returned, or nil if its status is below 400. The error has
// the gRPC status that the response stands for, with the reason of Hopbound's error and, after Retry-After, a RetryInfo.
// It is for handlers that fail because the service below has failed: [WriteError] answers with the same code and
// reason. The message and other details of the error below are lost. ErrorOf reads at most 64 KiB of the body of a problem,
// and puts them back. The caller closes the body.
func ErrorOf(response *http.Response) error {
	if response.StatusCode < http.StatusBadRequest {
		return nil
	}
	body, err := readProblem(response)
	if err != nil {
		return err
	}
	p := parse(body)
	st := failureOf(response.StatusCode, p)
	if st == nil {
		st = describe(outcomeCode(response.StatusCode), response.StatusCode, p)
	}
	if after, ok := retryAfter(response); ok {
		if detailed, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)}); err == nil {
			st = detailed
		}
	}
	return st.Err()
}

// outcomeCode returns the usual code of a status of 4xx that is an outcome.
func outcomeCode(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusNotFound:
		return codes.NotFound
	case http.StatusConflict:
		return codes.AlreadyExists
	case http.StatusUnprocessableEntity, http.StatusPreconditionFailed:
		return codes.FailedPrecondition
	default:
		return codes.InvalidArgument
	}
}

// statusClientClosed is nginx's status for a request that the client has cancelled.
const statusClientClosed = 499

// statusOf returns the usual HTTP status of a code, as google.rpc.Code and grpc-gateway have it.
func statusOf(code codes.Code) int {
	switch code {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.Canceled:
		return statusClientClosed
	default:
		return http.StatusInternalServerError
	}
}

// codeOf returns the code of a failed request, or OK if the status is that of an outcome.
func codeOf(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusTooManyRequests:
		return codes.ResourceExhausted
	case http.StatusNotImplemented:
		return codes.Unimplemented
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusTooEarly:
		return codes.Unavailable
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return codes.DeadlineExceeded
	case statusClientClosed:
		return codes.Canceled
	case http.StatusInternalServerError:
		return codes.Internal
	}
	if httpStatus > http.StatusInternalServerError {
		return codes.Unknown
	}
	return codes.OK
}

// isProblem reports whether a response is a problem.
func isProblem(header http.Header) bool {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	return err == nil && media == problemType
}

// failureOf returns the status of a failed request, or nil if its response is an outcome. The problem is Hopbound's, or nil.
// Some statuses of problems stand for another code than usual: 409 for ABORTED, such as IN_PROGRESS, and 503 for
// RESOURCE_EXHAUSTED.
func failureOf(httpStatus int, p *problem) *status.Status {
	code := codeOf(httpStatus)
	switch {
	case p == nil:
	case httpStatus == http.StatusConflict && p.Reason != interceptors.ReasonResponseOmitted:
		code = codes.Aborted
	case httpStatus == http.StatusServiceUnavailable && (p.Reason == interceptors.ReasonStoreFull || p.Reason == interceptors.ReasonBulkheadFull):
		code = codes.ResourceExhausted
	}
	if code == codes.OK {
		return nil
	}
	return describe(code, httpStatus, p)
}

// parse returns a problem of Hopbound, or nil. Problems of others have reasons, too.
func parse(body []byte) *problem {
	var p problem
	if json.Unmarshal(body, &p) != nil || !strings.HasPrefix(p.Type, reasonType) {
		return nil
	}
	return &p
}

// describe returns a status with the reason of a problem.
func describe(code codes.Code, httpStatus int, p *problem) *status.Status {
	st := status.New(code, strconv.Itoa(httpStatus)+" "+http.StatusText(httpStatus))
	if p != nil && p.Reason != "" {
		if detailed, err := st.WithDetails(&errdetails.ErrorInfo{Domain: interceptors.Domain, Reason: p.Reason}); err == nil {
			st = detailed
		}
	}
	return st
}
