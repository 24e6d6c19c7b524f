package harness

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// Side is one side of a stream of texts. It hides that Upload has one response and Watch one request.
type Side struct {
	Stream interface {
		Context() context.Context
		SendMsg(m any) error
		RecvMsg(m any) error
	}
	newSent, NewReceived func(text string) Texter
}

// Texter is a message with a text.
type Texter interface{ GetText() string }

// Send sends a text.
func (s Side) Send(text string) error { return s.Stream.SendMsg(s.newSent(text)) }

// Recv receives a text.
func (s Side) Recv() (string, error) {
	m := s.NewReceived("")
	err := s.Stream.RecvMsg(m)
	return m.GetText(), err
}

// All receives until the end.
func (s Side) All() ([]string, error) {
	var texts []string
	for {
		text, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return texts, nil
		}
		if err != nil {
			return texts, err
		}
		texts = append(texts, text)
	}
}

// Requests receives what a client sends: one text, unless the client streams.
func (s Side) Requests() ([]string, error) {
	if _, single := s.NewReceived("").(*testv1.WatchRequest); single {
		text, err := s.Recv()
		return []string{text}, err
	}
	return s.All()
}

// Kind is a kind of streaming call.
type Kind struct {
	Name     string
	Desc     grpc.StreamDesc
	Request  func(text string) Texter
	response func(text string) Texter
}

// Method returns the full name of the method.
func (k Kind) Method() string { return "/hopbound.test.v1.TestService/" + k.Name }

// Kinds returns a server stream, a client stream and a bidirectional stream.
func Kinds() []Kind {
	return []Kind{
		{
			"Watch",
			grpc.StreamDesc{StreamName: "Watch", ServerStreams: true},
			func(s string) Texter { return &testv1.WatchRequest{Text: s} }, func(s string) Texter { return &testv1.WatchResponse{Text: s} },
		},
		{
			"Upload",
			grpc.StreamDesc{StreamName: "Upload", ClientStreams: true},
			func(s string) Texter { return &testv1.UploadRequest{Text: s} }, func(s string) Texter { return &testv1.UploadResponse{Text: s} },
		},
		{
			"Chat",
			grpc.StreamDesc{StreamName: "Chat", ServerStreams: true, ClientStreams: true},
			func(s string) Texter { return &testv1.ChatRequest{Text: s} }, func(s string) Texter { return &testv1.ChatResponse{Text: s} },
		},
	}
}

// StreamHandler is the body of all streaming methods of a server.
type StreamHandler func(s Side, ss grpc.ServerStream) error

// ServeStreams runs a server in memory whose streaming methods have the same body.
func ServeStreams(t testing.TB, handle StreamHandler, opts ...grpc.ServerOption) *Node {
	t.Helper()
	n := NewNode(t, opts...)
	n.Server.RegisterService(StreamingService(handle), nil)
	n.Start()
	return n
}

// StreamingService is the test service with its streaming methods alone.
func StreamingService(handle StreamHandler) *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{ServiceName: "hopbound.test.v1.TestService", HandlerType: (*any)(nil)}
	for _, k := range Kinds() {
		d := k.Desc
		d.Handler = func(_ any, ss grpc.ServerStream) error {
			return handle(Side{ss, k.response, k.Request}, ss)
		}
		desc.Streams = append(desc.Streams, d)
	}
	return desc
}

// Stream is a client's side of a stream.
type Stream struct {
	Side
	grpc.ClientStream
}

// Open starts a streaming call.
func (k Kind) Open(ctx context.Context, cc *grpc.ClientConn, opts ...grpc.CallOption) (Stream, error) {
	cs, err := cc.NewStream(ctx, &k.Desc, k.Method(), opts...)
	return Stream{Side{cs, k.Request, k.response}, cs}, err
}

// Exchange sends texts, closes its side, and receives until the end, or one text if the kind has one
// response.
func (k Kind) Exchange(ctx context.Context, cc *grpc.ClientConn, texts []string, opts ...grpc.CallOption) ([]string, error) {
	s, err := k.Open(ctx, cc, opts...)
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		if err := s.Send(text); err != nil {
			break // the status comes from receiving
		}
	}
	if err := s.CloseSend(); err != nil {
		return nil, err
	}
	if !k.Desc.ServerStreams {
		text, err := s.Recv()
		if err != nil {
			return nil, err
		}
		return []string{text}, nil
	}
	return s.All()
}

// ServeAll runs a server whose unary and streaming methods have one body.
func ServeAll(t testing.TB, body Handler, opts ...grpc.ServerOption) *Node {
	t.Helper()
	n := NewNode(t, opts...)
	n.Server.RegisterService(ServiceOf(body, func() bool { return false }), nil)
	n.Start()
	return n
}

// ServiceOf is the test service whose methods have one body. If early returns true, a server stream
// answers before the body runs.
func ServiceOf(body Handler, early func() bool) *grpc.ServiceDesc {
	desc := StreamingService(func(s Side, ss grpc.ServerStream) error {
		if _, err := s.Requests(); err != nil {
			return err
		}
		if _, single := s.NewReceived("").(*testv1.WatchRequest); single && early() {
			if err := s.Send("early"); err != nil {
				return err
			}
		}
		if err := body(ss.Context()); err != nil {
			return err
		}
		return s.Send("reply")
	})
	desc.Methods = []grpc.MethodDesc{unaryMethod(body)}
	return desc
}

// unaryMethod is the method Idempotent of the test service.
func unaryMethod(body Handler) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: "Idempotent",
		Handler: func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			req := &testv1.IdempotentRequest{}
			if err := decode(req); err != nil {
				return nil, err
			}
			run := func(ctx context.Context, _ any) (any, error) { return &testv1.IdempotentResponse{}, body(ctx) }
			if interceptor == nil {
				return run(ctx, req)
			}
			return interceptor(ctx, req, &grpc.UnaryServerInfo{FullMethod: testv1.TestService_Idempotent_FullMethodName}, run)
		},
	}
}

// ForKinds runs a test for each kind of stream, with texts to send on one.
func ForKinds(t *testing.T, run func(t *testing.T, k Kind, texts []string)) {
	t.Helper()
	for _, k := range Kinds() {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			texts := []string{"a", "b", "c"}
			if !k.Desc.ClientStreams {
				texts = texts[:1]
			}
			run(t, k, texts)
		})
	}
}

// ReplyJoined answers with all that it was sent, joined by spaces.
func ReplyJoined(s Side, _ grpc.ServerStream) error {
	texts, err := s.Requests()
	if err != nil {
		return err
	}
	return s.Send(strings.Join(texts, " "))
}
