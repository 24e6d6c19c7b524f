package hopconnect

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
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
	if _, ok := status.FromError(err); ok { // made by Hopbound, or by a client of gRPC
		return err
	}
	failed := (*connect.Error)(nil)
	if !errors.As(err, &failed) {
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

// withMeta returns an error with metadata. It is a copy, because a handler may return the same error many times.
func withMeta(err error, mds ...metadata.MD) error {
	failed := (*connect.Error)(nil)
	if !errors.As(err, &failed) {
		st := status.Convert(toStatus(err))
		failed = connect.NewError(connect.Code(st.Code()), err)
	}
	made := connect.NewError(failed.Code(), failed.Unwrap())
	for _, d := range failed.Details() {
		made.AddDetail(d)
	}
	maps.Copy(made.Meta(), failed.Meta())
	for _, name := range []string{"Hop-Report", "Grpc-Retry-Pushback-Ms"} {
		made.Meta().Del(name) // a handler that returns the error of a call would forward those of its callee
	}
	for _, md := range mds {
		setHeaders(made.Meta(), md)
	}
	return made
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

// setHeaders sets metadata as headers.
func setHeaders(header http.Header, md metadata.MD) {
	for key, values := range md {
		header[http.CanonicalHeaderKey(key)] = values
	}
}
