package connect_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/internal/e2e/harness"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
)

func TestRetrySendsMessagesAsTheyWereWhenTheyWereSent(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var calls atomic.Int64
		s := serve(t, route{chat, connect.NewBidiStreamHandler(chat, func(_ context.Context, s *connect.BidiStream[testv1.ChatRequest, testv1.ChatResponse]) error {
			var text strings.Builder
			text.WriteString(s.RequestHeader().Get("X-Own"))
			for {
				m, err := s.Receive()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					return err
				}
				text.WriteString(m.GetText())
			}
			if calls.Add(1) < 3 {
				return errUnavailable
			}
			return s.Send(&testv1.ChatResponse{Text: text.String()})
		}, server(t))})
		stream := connect.NewClient[testv1.ChatRequest, testv1.ChatResponse](s.Client(), s.URL+chat, client(t, p)...).CallBidiStream(t.Context())
		stream.RequestHeader().Set("X-Own", "own ")
		message := &testv1.ChatRequest{}
		for _, text := range []string{"a", "", "b", "c"} {
			message.Text = text
			if err := stream.Send(message); err != nil {
				t.Fatal(err)
			}
		}
		message.Text = "changed"
		if err := stream.CloseRequest(); err != nil {
			t.Error(err)
		}
		if h := stream.ResponseHeader().Get("X-None"); h != "" {
			t.Error(h)
		}
		m, err := stream.Receive()
		if err != nil && calls.Load() == 3 || err == nil && m.GetText() != "own abc" {
			t.Errorf("received %v, error %v after %d calls", m, err, calls.Load())
		}
		_ = stream.CloseResponse()
	})
}

func TestStreamMayBeUsedByAllGoroutinesAsWithoutHopbound(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		for _, fails := range []int64{0, 1} {
			var calls atomic.Int64
			s := serve(t, route{chat, connect.NewBidiStreamHandler(chat, func(_ context.Context, s *connect.BidiStream[testv1.ChatRequest, testv1.ChatResponse]) error {
				if calls.Add(1) <= fails {
					return errUnavailable
				}
				for {
					m, err := s.Receive()
					if errors.Is(err, io.EOF) {
						return nil
					}
					if err != nil {
						return err
					}
					if err := s.Send(&testv1.ChatResponse{Text: m.GetText()}); err != nil {
						return err
					}
				}
			}, server(t))})
			ctx, cancel := context.WithCancel(t.Context())
			stream := connect.NewClient[testv1.ChatRequest, testv1.ChatResponse](s.Client(), s.URL+chat, client(t, p)...).CallBidiStream(ctx)
			var all sync.WaitGroup
			all.Go(func() {
				for range 50 {
					if stream.Send(&testv1.ChatRequest{Text: "m"}) != nil {
						break
					}
				}
				_ = stream.CloseRequest()
			})
			all.Go(func() { _ = stream.ResponseHeader() })
			received := 0
			for {
				_, err := stream.Receive()
				if err != nil {
					break
				}
				if received++; received == 20 {
					cancel()
				}
			}
			_ = stream.CloseResponse()
			all.Wait()
			cancel()
		}
	})
}

func TestCancelledCallsSaySo(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		started := make(chan struct{}, 4)
		s := serve(t, route{upload, connect.NewClientStreamHandler(upload, func(ctx context.Context, _ *connect.ClientStream[testv1.UploadRequest]) (*connect.Response[testv1.UploadResponse], error) {
			started <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}, server(t))})
		b := harness.FixedBudget()
		for _, opts := range [][]connect.ClientOption{p.options, client(t, p, interceptors.WithBudget(b))} {
			ctx, cancel := context.WithCancel(t.Context())
			stream := connect.NewClient[testv1.UploadRequest, testv1.UploadResponse](s.Client(), s.URL+upload, opts...).CallClientStream(ctx)
			if err := stream.Send(&testv1.UploadRequest{}); err != nil {
				t.Error(err)
			}
			<-started
			cancel()
			if err := stream.Send(&testv1.UploadRequest{}); connect.CodeOf(err) != connect.CodeCanceled {
				t.Errorf("send: %v", err)
			}
			if _, err := stream.CloseAndReceive(); connect.CodeOf(err) != connect.CodeCanceled {
				t.Errorf("receive: %v", err)
			}
		}
	})
}

func TestClosedStreamEndsAtOnce(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		s := serve(t, route{watch, connect.NewServerStreamHandler(watch, func(ctx context.Context, _ *connect.Request[testv1.WatchRequest], s *connect.ServerStream[testv1.WatchResponse]) error {
			_ = s.Send(nil)
			<-ctx.Done()
			return ctx.Err()
		}, server(t))})
		inner := &counter{}
		b := harness.FixedBudget()
		ctx, _ := root(t, b)
		stream, err := connect.NewClient[testv1.WatchRequest, testv1.WatchResponse](s.Client(), s.URL+watch, after(t, p, inner, interceptors.WithBudget(b))...).
			CallServerStream(ctx, connect.NewRequest(&testv1.WatchRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		if reports := stream.ResponseHeader()["Hop-Report"]; len(reports) != 1 {
			t.Errorf("reports in the header: %q", reports)
		}
		if err := stream.Close(); err != nil || inner.open.Load() != 0 {
			t.Errorf("error %v, %d streams are open", err, inner.open.Load())
		}
	})
}

func TestUploadThatTheServerRefusesIsRetried(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var calls atomic.Int64
		refused := make(chan struct{})
		s := serve(t, route{upload, connect.NewClientStreamHandler(upload, func(_ context.Context, s *connect.ClientStream[testv1.UploadRequest]) (*connect.Response[testv1.UploadResponse], error) {
			if calls.Add(1) == 1 {
				defer close(refused)
				return nil, errUnavailable
			}
			var text strings.Builder
			for s.Receive() {
				text.WriteString(s.Msg().GetText())
			}
			return connect.NewResponse(&testv1.UploadResponse{Text: text.String()}), s.Err()
		}, server(t))})
		stream := connect.NewClient[testv1.UploadRequest, testv1.UploadResponse](s.Client(), s.URL+upload, client(t, p)...).CallClientStream(t.Context())
		var err error
		for i := 0; i < 2000 && err == nil; i++ {
			err = stream.Send(&testv1.UploadRequest{Text: "a"})
			if i == 0 {
				<-refused
			}
		}
		r, err := stream.CloseAndReceive()
		if err != nil || len(r.Msg.GetText()) != 2000 {
			t.Errorf("error %v after %d calls", err, calls.Load())
		}
	})
}
