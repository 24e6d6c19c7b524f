package connect_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"pgregory.net/rapid"
)

// obey does what a message says. It returns true if the handler is to return.
func obey(command string, header, trailer http.Header, send func(text string) error) (ended bool, err error) {
	switch command {
	case "header":
		header.Add("X-Header", "h")
	case "trailer":
		trailer.Add("X-Trailer", "t")
	case "flush":
		return false, send("")
	case "reply":
		return false, send("re")
	case "end":
		return true, nil
	case "wrapped":
		return true, fmt.Errorf("wrapped: %w", connect.NewError(connect.CodeAborted, errors.New("inner")))
	case "plain":
		return true, errors.New("plain")
	case "context":
		return true, context.DeadlineExceeded
	case "fail":
		failed := connect.NewError(connect.CodeNotFound, errors.New("none"))
		failed.Meta().Add("X-Meta", "m")
		return true, failed
	}
	return false, nil
}

// obedient returns the handlers of all kinds of streams.
func obedient(opts ...connect.HandlerOption) []route {
	return []route{
		{chat, connect.NewBidiStreamHandler(chat, func(_ context.Context, s *connect.BidiStream[testv1.ChatRequest, testv1.ChatResponse]) error {
			for {
				m, err := s.Receive()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				ended, err := obey(m.GetText(), s.ResponseHeader(), s.ResponseTrailer(), func(text string) error {
					if text == "" {
						return s.Send(nil)
					}
					return s.Send(&testv1.ChatResponse{Text: text})
				})
				if ended || err != nil {
					return err
				}
			}
		}, opts...)},
		{watch, connect.NewServerStreamHandler(watch, func(_ context.Context, r *connect.Request[testv1.WatchRequest], s *connect.ServerStream[testv1.WatchResponse]) error {
			for command := range strings.SplitSeq(r.Msg.GetText(), ",") {
				ended, err := obey(command, s.ResponseHeader(), s.ResponseTrailer(), func(text string) error {
					if text == "" {
						return s.Send(nil)
					}
					return s.Send(&testv1.WatchResponse{Text: text})
				})
				if ended || err != nil {
					return err
				}
			}
			return nil
		}, opts...)},
		{upload, connect.NewClientStreamHandler(upload, func(_ context.Context, s *connect.ClientStream[testv1.UploadRequest]) (*connect.Response[testv1.UploadResponse], error) {
			response := connect.NewResponse(&testv1.UploadResponse{})
			var failed error
			for s.Receive() {
				response.Msg.Text += s.Msg().GetText()
				if ended, err := obey(s.Msg().GetText(), response.Header(), response.Trailer(), func(string) error { return nil }); ended && failed == nil {
					failed = err
				}
			}
			return response, errors.Join(failed, s.Err())
		}, opts...)},
	}
}

// seen says what an application sees of an error and of headers.
func seen(what string, err error, headers ...http.Header) string {
	if errors.Is(err, io.EOF) {
		err = io.EOF
	}
	texts := []string{fmt.Sprint(what, ": ", err)}
	if failed := (*connect.Error)(nil); errors.As(err, &failed) {
		headers = append(headers, failed.Meta())
	}
	for _, h := range headers {
		for _, name := range slices.Sorted(maps.Keys(h)) {
			if strings.HasPrefix(name, "X-") && name != "X-User-Agent" || strings.HasPrefix(name, ":") {
				texts = append(texts, fmt.Sprint(name, h[name]))
			}
		}
	}
	return strings.Join(texts, " ")
}

// runChat runs a script, and returns what the application sees.
func runChat(ctx context.Context, s *connect.BidiStreamForClient[testv1.ChatRequest, testv1.ChatResponse], script []string) (all []string) {
	for _, command := range script {
		all = append(all, seen("send", s.Send(&testv1.ChatRequest{Text: command})))
		switch command {
		case "flush":
			all = append(all, seen("header", nil, s.ResponseHeader()))
		case "reply":
			m, err := s.Receive()
			all = append(all, seen("received "+m.GetText(), err, s.ResponseHeader()))
		case "end", "wrapped", "plain", "context", "fail":
			_, err := s.Receive()
			all = append(all, seen("ended", err, s.ResponseHeader(), s.ResponseTrailer()),
				seen("send", s.Send(&testv1.ChatRequest{})), seen("close", s.CloseRequest()))
			return append(all, seen("close", s.CloseResponse()))
		}
	}
	all = append(all, seen("close", s.CloseRequest()), seen("close", s.CloseRequest()))
	_, err := s.Receive()
	all = append(all, seen("ended", err, s.ResponseHeader(), s.ResponseTrailer()), seen("close", s.CloseResponse()))
	return append(all, seen("close", s.CloseResponse()), fmt.Sprint(ctx.Err()))
}

func TestStreamsLookAsWithoutHopbound(t *testing.T) {
	t.Parallel()
	for _, observe := range []bool{false, true} {
		everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
			var with []interceptors.ServerOption
			var withClient []interceptors.ClientOption
			if observe {
				with, withClient = append(with, interceptors.WithMode(interceptors.Observe)), append(withClient, interceptors.WithMode(interceptors.Observe))
			}
			plain, hop := serve(t, obedient()...), serve(t, obedient(server(t, with...))...)
			plain1, hop1 := serveHTTP1(t, obedient()...), serveHTTP1(t, obedient(server(t, with...))...)
			opts := client(t, p, withClient...)
			rapid.Check(t, func(t *rapid.T) {
				script := rapid.SliceOfN(rapid.SampledFrom([]string{"header", "trailer", "flush", "reply", "end", "wrapped", "plain", "context", "fail"}), 0, 8).Draw(t, "script")
				kind := rapid.SampledFrom([]string{chat, watch, upload}).Draw(t, "kind")
				plain, hop := plain, hop
				if kind != chat && p.name != "grpc" && rapid.Bool().Draw(t, "HTTP/1.1") {
					plain, hop = plain1, hop1
				}
				want := runScript(kind, plain.Client(), plain.URL, script, p.options)
				got := runScript(kind, hop.Client(), hop.URL, script, opts)
				if !slices.Equal(want, got) {
					t.Errorf("with Hopbound:\n%s\nwithout:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			})
		})
	}
}

func runScript(kind string, c *http.Client, url string, script []string, opts []connect.ClientOption) (all []string) {
	ctx, info := connect.NewClientContext(context.Background())
	switch kind {
	case chat:
		all = runChat(ctx, connect.NewClient[testv1.ChatRequest, testv1.ChatResponse](c, url+kind, opts...).CallBidiStream(ctx), script)
	case watch:
		s, err := connect.NewClient[testv1.WatchRequest, testv1.WatchResponse](c, url+kind, opts...).
			CallServerStream(ctx, connect.NewRequest(&testv1.WatchRequest{Text: strings.Join(script, ",")}))
		all = append(all, seen("call", err), seen("header", nil, s.ResponseHeader()))
		for s.Receive() {
			all = append(all, "received "+s.Msg().GetText())
		}
		all = append(all, seen("ended", s.Err(), s.ResponseHeader(), s.ResponseTrailer()), seen("close", s.Close()))
	default:
		s, err := connect.NewClient[testv1.UploadRequest, testv1.UploadResponse](c, url+kind, opts...).CallClientStreamSimple(ctx)
		all = append(all, seen("call", err))
		for _, command := range script {
			all = append(all, seen("send", s.Send(&testv1.UploadRequest{Text: command})))
		}
		r, err := s.CloseAndReceive()
		all = append(all, seen("response "+r.GetText(), err))
	}
	return append(all, seen("info", nil, info.ResponseHeader(), info.ResponseTrailer()))
}
