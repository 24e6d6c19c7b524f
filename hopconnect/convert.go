package hopconnect

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// Headers that only Hopbound sets.
const (
	reportHeader   = "Hop-Report"
	pushbackHeader = "Grpc-Retry-Pushback-Ms"
)

const keyHeader = "Idempotency-Key"

// callError is an error of connect-go with the status that gRPC's interceptors read.
type callError struct {
	error
	status *status.Status
}

func (e *callError) Unwrap() error              { return e.error }
func (e *callError) GRPCStatus() *status.Status { return e.status }

// toStatus returns an error for the interceptors of gRPC.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	failed, ok := asError(err)
	if !ok {
		if _, ok := status.FromError(err); ok { // made by Hopbound, or by a client of gRPC
			return err
		}
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			return &callError{err, status.FromContextError(err)}
		}
		return &callError{err, status.New(codes.Unknown, err.Error())}
	}
	st := &spb.Status{Code: int32(failed.Code()), Message: failed.Message()} //nolint:gosec // at most 16
	for _, d := range failed.Details() {
		st.Details = append(st.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()})
	}
	return &callError{err, status.FromProto(st)}
}

// toConnect returns an error for connect-go: the original one, or one with the status of an error that Hopbound has made.
func toConnect(err error) error {
	if original := (*callError)(nil); errors.As(err, &original) {
		return original.error
	}
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	made := connect.NewError(connect.Code(st.Code()), errors.New(st.Message()))
	for _, d := range st.Proto().GetDetails() {
		if detail, err := connect.NewErrorDetail(d); err == nil {
			made.AddDetail(detail)
		}
	}
	return made
}

// sentError returns the error of an attempt. connect-go takes a connection that the server has reset for a cancellation by
// the client. If the attempt was not cancelled, the server is unavailable.
func sentError(attempt context.Context, err error) error {
	broken := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	if broken && attempt.Err() == nil && connect.CodeOf(err) == connect.CodeCanceled && !connect.IsWireError(err) {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	return err
}

// forCaller returns the error of a call: an error of connect-go that also has a gRPC status, so that a handler of grpc-go can
// return it.
func forCaller(err error) error {
	if err = toConnect(err); err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return toStatus(err)
}

// contextError returns the error that connect-go makes of that of a context.
func contextError(err error) error {
	return connect.NewError(connect.Code(status.FromContextError(err).Code()), err)
}

// asError returns the error of connect-go that err is or wraps, or false if there is none.
func asError(err error) (*connect.Error, bool) {
	failed := (*connect.Error)(nil)
	return failed, errors.As(err, &failed) && failed != nil
}

// metaOf returns the metadata that connect-go sends with a handler's error. It does not send that of another server.
func metaOf(err error) http.Header {
	failed, ok := asError(err)
	if !ok || connect.IsWireError(err) {
		return nil
	}
	seen := *failed // Meta changes an error without metadata, and a handler may return the same one in many calls
	return seen.Meta()
}

// withoutReserved returns a handler's error without the metadata that only Hopbound sets. A handler that copies the
// metadata of its callee's error would forward it.
func withoutReserved(err error) error {
	meta := metaOf(err)
	if len(meta[reportHeader])+len(meta[pushbackHeader]) == 0 {
		return err
	}
	failed, _ := asError(err)
	made := connect.NewError(failed.Code(), failed.Unwrap())
	for _, d := range failed.Details() {
		made.AddDetail(d)
	}
	maps.Copy(made.Meta(), meta)
	removeReserved(made.Meta())
	return made
}

func removeReserved(header http.Header) {
	delete(header, reportHeader)
	delete(header, pushbackHeader)
}

// toMetadata returns headers as metadata.
func toMetadata(headers ...http.Header) metadata.MD {
	md := metadata.MD{}
	for _, header := range headers {
		for name, values := range header {
			key := strings.ToLower(name)
			md[key] = append(md[key], values...)
		}
	}
	return md
}
