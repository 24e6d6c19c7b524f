package connect_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

const (
	watch  = testv1.TestService_Watch_FullMethodName
	upload = testv1.TestService_Upload_FullMethodName
	chat   = testv1.TestService_Chat_FullMethodName
)

func TestServerStreamsAreRetriedUntilTheFirstMessage(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		for _, before := range []int{0, 2} { // messages before the failure
			var calls atomic.Int64
			s := serve(t, route{watch, connect.NewServerStreamHandler(watch, func(_ context.Context, r *connect.Request[testv1.WatchRequest], stream *connect.ServerStream[testv1.WatchResponse]) error {
				first := calls.Add(1) == 1
				stream.ResponseTrailer().Set("X-Trailer", "t")
				for i := range 3 {
					if first && i == before {
						return errUnavailable
					}
					if err := stream.Send(&testv1.WatchResponse{Text: fmt.Sprint(r.Msg.GetText(), i)}); err != nil {
						return err
					}
				}
				return nil
			}, server(t))})
			request := connect.NewRequest(&testv1.WatchRequest{Text: "m"})
			request.Header().Set("X-Own", "yes")
			b := harness.FixedBudget()
			ctx, end := budget.NewRoot(t.Context(), b)
			stream, err := connect.NewClient[testv1.WatchRequest, testv1.WatchResponse](s.Client(), s.URL+watch,
				client(t, p, interceptors.WithBudget(b))...).CallServerStream(ctx, request)
			if err != nil {
				t.Fatal(err)
			}
			var texts []string
			for stream.Receive() {
				texts = append(texts, stream.Msg().GetText())
			}
			a, _ := budget.FromContext(ctx)
			switch {
			case before == 0 && (stream.Err() != nil || !slices.Equal(texts, []string{"m0", "m1", "m2"}) || calls.Load() != 2 || a.Used() != 1 || stream.ResponseTrailer().Get("X-Trailer") != "t"):
				t.Errorf("received %q, error %v, %d calls, %d tokens, trailer %v", texts, stream.Err(), calls.Load(), a.Used(), stream.ResponseTrailer())
			case before > 0 && (connect.CodeOf(stream.Err()) != connect.CodeUnavailable || len(texts) != before || calls.Load() != 1):
				t.Errorf("received %q, error %v, %d calls; a stream that has answered is not retried", texts, stream.Err(), calls.Load())
			}
			end(true)
			_ = stream.Close()
		}
	})
}

func TestClientStreamsAreSentAgain(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var calls atomic.Int64
		s := serve(t, route{upload, connect.NewClientStreamHandler(upload, func(_ context.Context, stream *connect.ClientStream[testv1.UploadRequest]) (*connect.Response[testv1.UploadResponse], error) {
			var text strings.Builder
			for stream.Receive() {
				text.WriteString(stream.Msg().GetText())
			}
			if calls.Add(1) == 1 {
				return nil, errUnavailable
			}
			return connect.NewResponse(&testv1.UploadResponse{Text: text.String()}), stream.Err()
		}, server(t))})
		stream := connect.NewClient[testv1.UploadRequest, testv1.UploadResponse](s.Client(), s.URL+upload, client(t, p)...).CallClientStream(t.Context())
		for _, text := range []string{"a", "b", "c"} {
			if err := stream.Send(&testv1.UploadRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
		}
		response, err := stream.CloseAndReceive()
		if err != nil || response.Msg.GetText() != "abc" || calls.Load() != 2 {
			t.Errorf("response %v, error %v after %d calls", response, err, calls.Load())
		}
	})
}

func TestBidirectionalStreams(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		s := serve(t, route{chat, connect.NewBidiStreamHandler(chat, func(_ context.Context, stream *connect.BidiStream[testv1.ChatRequest, testv1.ChatResponse]) error {
			for {
				m, err := stream.Receive()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if err := stream.Send(&testv1.ChatResponse{Text: "re " + m.GetText()}); err != nil {
					return err
				}
			}
		}, server(t))})
		stream := connect.NewClient[testv1.ChatRequest, testv1.ChatResponse](s.Client(), s.URL+chat, client(t, p)...).CallBidiStream(t.Context())
		for _, text := range []string{"a", "b"} {
			if err := stream.Send(&testv1.ChatRequest{Text: text}); err != nil {
				t.Fatal(err)
			}
			m, err := stream.Receive()
			if err != nil || m.GetText() != "re "+text {
				t.Errorf("received %v, error %v", m, err)
			}
		}
		if err := stream.CloseRequest(); err != nil {
			t.Error(err)
		}
		if _, err := stream.Receive(); !errors.Is(err, io.EOF) {
			t.Errorf("error %v, want the end", err)
		}
		if err := stream.CloseResponse(); err != nil {
			t.Error(err)
		}
	})
}

func TestStreamThatTheApplicationClosesEarlyLeavesNothing(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		ended := make(chan error, 1)
		s := serve(t, route{watch, connect.NewServerStreamHandler(watch, func(ctx context.Context, _ *connect.Request[testv1.WatchRequest], stream *connect.ServerStream[testv1.WatchResponse]) error {
			err := stream.Send(&testv1.WatchResponse{})
			<-ctx.Done()
			ended <- ctx.Err()
			return err
		}, server(t))})
		stream, err := connect.NewClient[testv1.WatchRequest, testv1.WatchResponse](s.Client(), s.URL+watch, client(t, p)...).
			CallServerStream(t.Context(), connect.NewRequest(&testv1.WatchRequest{}))
		if err != nil || !stream.Receive() {
			t.Fatalf("error %v and %v", err, stream.Err())
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the handler's context ended with %v", err)
		}
	})
}
