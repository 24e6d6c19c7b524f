package bench

import (
	"context"
	"fmt"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/grpc"
)

// Chat returns each message.
func (echo) Chat(stream grpc.BidiStreamingServer[testv1.ChatRequest, testv1.ChatResponse]) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := stream.Send(&testv1.ChatResponse{Text: req.GetText()}); err != nil {
			return err
		}
	}
}

// Messages is an open bidirectional stream over a connection in memory.
type Messages struct {
	stream  grpc.BidiStreamingClient[testv1.ChatRequest, testv1.ChatResponse]
	request *testv1.ChatRequest
	close   func()
}

// NewMessages starts a server, connects to it and opens the stream.
func NewMessages(stack Stack) (*Messages, error) {
	h, err := NewHealthy(stack)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := h.client.Chat(ctx)
	if err != nil {
		cancel()
		h.Close()
		return nil, fmt.Errorf("open: %w", err)
	}
	return &Messages{
		stream: stream, request: &testv1.ChatRequest{Text: "how long does this take?"},
		close: func() {
			cancel()
			_, _ = stream.Recv() // waits until the stream has ended
			h.Close()
		},
	}, nil
}

// Close ends the stream and stops the server.
func (m *Messages) Close() { m.close() }

// Call sends a message and receives the reply.
func (m *Messages) Call() error {
	if err := m.stream.Send(m.request); err != nil {
		return err
	}
	_, err := m.stream.Recv()
	return err
}
