package harness

import (
	"testing"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// RetryDelay returns the delay of an error's RetryInfo, or -1.
func RetryDelay(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return -1
}

// WantError checks an error's code and reason.
func WantError(t testing.TB, err error, code codes.Code, why string) {
	t.Helper()
	if status.Code(err) != code || Reason(err) != why {
		t.Errorf("got %v with reason %q, want %v with %q", err, Reason(err), code, why)
	}
}

// Reason returns the reason in an error's ErrorInfo, or "".
func Reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == interceptors.Domain {
			return info.GetReason()
		}
	}
	return ""
}
