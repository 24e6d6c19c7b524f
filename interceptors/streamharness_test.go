package interceptors_test

import (
	"context"
	"errors"
	"io"
	"testing"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// side is one side of a stream of texts, whatever its kind: Upload has one
// response and Watch one request.
type side struct {
	grpcStream interface {
		Context() context.Context
		SendMsg(m any) error
		RecvMsg(m any) error
	}
	newSent, newReceived func(text string) texter
}

type texter interface{ GetText() string }

func (s side) send(text string) error { return s.grpcStream.SendMsg(s.newSent(text)) }

func (s side) recv() (string, error) {
	m := s.newReceived("")
	err := s.grpcStream.RecvMsg(m)
	return m.GetText(), err
}

// all receives until the end.
func (s side) all() ([]string, error) {
	var texts []string
	for {
		text, err := s.recv()
		if errors.Is(err, io.EOF) {
			return texts, nil
		}
		if err != nil {
			return texts, err
		}
		texts = append(texts, text)
	}
}

// requests receives what a server is sent: one text, unless the client streams.
func (s side) requests() ([]string, error) {
	if _, single := s.newReceived("").(*testv1.WatchRequest); single {
		text, err := s.recv()
		return []string{text}, err
	}
	return s.all()
}

// kind is a kind of streaming call.
type kind struct {
	name     string
	desc     grpc.StreamDesc
	request  func(text string) texter
	response func(text string) texter
}

func (k kind) method() string { return "/hopbound.test.v1.TestService/" + k.name }

func kinds() []kind {
	return []kind{
		{
			"Watch",
			grpc.StreamDesc{StreamName: "Watch", ServerStreams: true},
			func(s string) texter { return &testv1.WatchRequest{Text: s} }, func(s string) texter { return &testv1.WatchResponse{Text: s} },
		},
		{
			"Upload",
			grpc.StreamDesc{StreamName: "Upload", ClientStreams: true},
			func(s string) texter { return &testv1.UploadRequest{Text: s} }, func(s string) texter { return &testv1.UploadResponse{Text: s} },
		},
		{
			"Chat",
			grpc.StreamDesc{StreamName: "Chat", ServerStreams: true, ClientStreams: true},
			func(s string) texter { return &testv1.ChatRequest{Text: s} }, func(s string) texter { return &testv1.ChatResponse{Text: s} },
		},
	}
}

// streamHandler is the body of all streaming methods of a server.
type streamHandler func(s side, ss grpc.ServerStream) error

// serveStreams runs a server in memory whose streaming methods, of every kind,
// have the same body.
func serveStreams(t testing.TB, handle streamHandler, opts ...grpc.ServerOption) *node {
	t.Helper()
	n := newNode(t, opts...)
	n.server.RegisterService(streamingService(handle), nil)
	n.start()
	return n
}

// streamingService is the test service with streaming methods alone.
func streamingService(handle streamHandler) *grpc.ServiceDesc {
	desc := &grpc.ServiceDesc{ServiceName: "hopbound.test.v1.TestService", HandlerType: (*any)(nil)}
	for _, k := range kinds() {
		d := k.desc
		d.Handler = func(_ any, ss grpc.ServerStream) error {
			return handle(side{ss, k.response, k.request}, ss)
		}
		desc.Streams = append(desc.Streams, d)
	}
	return desc
}

// stream is a client's side.
type stream struct {
	side
	grpc.ClientStream
}

// open begins a streaming call.
func (k kind) open(ctx context.Context, cc *grpc.ClientConn, opts ...grpc.CallOption) (stream, error) {
	cs, err := cc.NewStream(ctx, &k.desc, k.method(), opts...)
	return stream{side{cs, k.request, k.response}, cs}, err
}

// exchange sends texts, closes its side, and receives all there is: one text, if
// the kind has one response.
func (k kind) exchange(ctx context.Context, cc *grpc.ClientConn, texts []string, opts ...grpc.CallOption) ([]string, error) {
	s, err := k.open(ctx, cc, opts...)
	if err != nil {
		return nil, err
	}
	for _, text := range texts {
		if err := s.send(text); err != nil {
			break // the status comes from receiving
		}
	}
	if err := s.CloseSend(); err != nil {
		return nil, err
	}
	if !k.desc.ServerStreams {
		text, err := s.recv()
		if err != nil {
			return nil, err
		}
		return []string{text}, nil
	}
	return s.all()
}

// serveAll runs a server whose methods, unary and streaming, have one body.
func serveAll(t testing.TB, body handler, opts ...grpc.ServerOption) *node {
	t.Helper()
	n := newNode(t, opts...)
	n.server.RegisterService(serviceOf(body, func() bool { return false }), nil)
	n.start()
	return n
}

// serviceOf is the test service whose methods have one body. Server streams answer
// before it runs if early says so.
func serviceOf(body handler, early func() bool) *grpc.ServiceDesc {
	desc := streamingService(func(s side, ss grpc.ServerStream) error {
		if _, err := s.requests(); err != nil {
			return err
		}
		if _, single := s.newReceived("").(*testv1.WatchRequest); single && early() {
			if err := s.send("early"); err != nil {
				return err
			}
		}
		if err := body(ss.Context()); err != nil {
			return err
		}
		return s.send("reply")
	})
	desc.Methods = []grpc.MethodDesc{unaryMethod(body)}
	return desc
}

// unaryMethod is the method Idempotent of the test service.
func unaryMethod(body handler) grpc.MethodDesc {
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
