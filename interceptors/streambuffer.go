package interceptors

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// Defaults of [WithStreamBuffer], which are grpc-go's.
const (
	defaultCallBuffer   = 256 << 10
	defaultClientBuffer = 16 << 20
)

// frameHeader is what gRPC puts before each message.
const frameHeader = 5

// kept are the messages of a stream that could be sent again. They are kept as
// they are: gRPC forbids to change a message that has been sent.
type kept struct {
	messages []any
	size     int
}

// add keeps a message of a size, and reports false if it is too much.
func (k *kept) add(c *Client, m any, size int) bool {
	size += frameHeader
	if size < frameHeader || k.size+size > c.callBuffer {
		return false
	}
	if c.buffered.Add(int64(size)) > int64(c.clientBuffer) {
		c.buffered.Add(-int64(size))
		return false
	}
	k.messages = append(k.messages, m)
	k.size += size
	return true
}

// drop lets go of all messages.
func (k *kept) drop(c *Client) {
	c.buffered.Add(-int64(k.size))
	*k = kept{}
}

// sizeOf returns the size of a message on the wire, or less than nothing if that
// cannot be told.
func sizeOf(m any) int {
	switch m := m.(type) {
	case proto.Message:
		return proto.Size(m)
	case protoadapt.MessageV1:
		return proto.Size(protoadapt.MessageV2Of(m))
	case interface{ Size() int }:
		return m.Size()
	case []byte:
		return len(m)
	case *[]byte:
		return len(*m)
	default:
		return -1
	}
}
