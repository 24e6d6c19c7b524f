package connect_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"github.com/hopbound/hopbound/interceptors"
)

// text is a message that is not of protobuf.
type text struct{ value string }

type textCodec struct{}

func (textCodec) Name() string { return "text" }

func (textCodec) Marshal(m any) ([]byte, error) {
	if m, ok := m.(*text); ok {
		return []byte(m.value), nil
	}
	return nil, fmt.Errorf("%T is no text", m)
}

func (textCodec) Unmarshal(data []byte, m any) error {
	if m, ok := m.(*text); ok {
		m.value = string(data)
		return nil
	}
	return fmt.Errorf("%T is no text", m)
}

func TestMessagesNeedNotBeOfProtobuf(t *testing.T) {
	t.Parallel()
	everyProtocol(t, func(t *testing.T, p protocol) { //nolint:thelper // it is the test
		var calls atomic.Int64
		codec := connect.WithCodec(textCodec{})
		s := serve(t, route{idempotent, connect.NewUnaryHandler(idempotent, func(_ context.Context, r *connect.Request[text]) (*connect.Response[text], error) {
			if calls.Add(1) == 1 {
				return nil, errUnavailable
			}
			return connect.NewResponse(r.Msg), nil
		}, codec, server(t))}, route{upload, connect.NewClientStreamHandler(upload, func(_ context.Context, s *connect.ClientStream[text]) (*connect.Response[text], error) {
			all := &text{}
			for s.Receive() {
				all.value += s.Msg().value
			}
			return connect.NewResponse(all), s.Err()
		}, codec, server(t))})
		opts := append(client(t, p, interceptors.WithPolicy(interceptors.MethodPolicies{"": {Idempotency: interceptors.Idempotent}})), codec)
		r, err := connect.NewClient[text, text](s.Client(), s.URL+idempotent, opts...).CallUnary(t.Context(), connect.NewRequest(&text{"a"}))
		if err != nil || r.Msg.value != "a" || calls.Load() != 2 {
			t.Errorf("unary: %v, error %v after %d calls", r, err, calls.Load())
		}
		stream := connect.NewClient[text, text](s.Client(), s.URL+upload, opts...).CallClientStream(t.Context())
		for _, value := range []string{"a", "b"} {
			if err := stream.Send(&text{value}); err != nil {
				t.Error(err)
			}
		}
		if r, err := stream.CloseAndReceive(); err != nil || r.Msg.value != "ab" {
			t.Errorf("stream: %v, error %v", r, err)
		}
	})
}
