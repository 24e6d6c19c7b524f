package stream

import (
	"reflect"

	"github.com/hopbound/hopbound/internal/outbound"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// frameHeader is what gRPC puts before each message.
const frameHeader = 5

// sentBuffer holds the messages of a stream that a retry sends again.
type sentBuffer struct {
	messages []message
	size     int
}

// add keeps a message. It returns false if the message exceeds the limit of the call or of its client,
// or cannot be kept.
func (b *sentBuffer) add(c *Client, limit int, m message) bool {
	size := len(m.data) + frameHeader
	if m.decode == nil || b.size+size > limit {
		return false
	}
	if c.buffered.Add(int64(size)) > int64(c.Buffer) {
		c.buffered.Add(-int64(size))
		return false
	}
	b.messages = append(b.messages, m)
	b.size += size
	return true
}

// drop drops all messages.
func (b *sentBuffer) drop(c *Client) {
	c.buffered.Add(-int64(b.size))
	*b = sentBuffer{}
}

// message is a message as it was when it was sent. The application may change its own as soon as
// SendMsg has returned, and most upload code does.
type message struct {
	data   []byte
	decode func(data []byte) (any, error) // returns an equal message; nil if there can be none
}

// again returns the message to send again.
func (m message) again() (any, error) { return m.decode(m.data) }

// encode returns a message as it is now, if the call's codec or protobuf can encode and decode it.
func (s *Stream) encode(m any) message {
	if codec := forcedCodec(s.call.Options); codec != nil && reflect.ValueOf(m).Kind() == reflect.Pointer {
		return encodeByCodec(codec, m)
	}
	switch m := m.(type) {
	case proto.Message:
		data, err := proto.Marshal(m)
		if err != nil {
			return message{} // gRPC returns the error
		}
		return message{data, func(data []byte) (any, error) {
			like := m.ProtoReflect().New().Interface()
			return like, proto.Unmarshal(data, like)
		}}
	case protoadapt.MessageV1:
		data, err := proto.Marshal(protoadapt.MessageV2Of(m))
		if err != nil {
			return message{}
		}
		return message{data, func(data []byte) (any, error) {
			like := outbound.NewLike(m)
			return like, proto.Unmarshal(data, protoadapt.MessageV2Of(like.(protoadapt.MessageV1))) //nolint:errcheck // it is of the same type
		}}
	default:
		return message{}
	}
}

func encodeByCodec(codec encoding.CodecV2, m any) message {
	encoded, err := codec.Marshal(m)
	if err != nil {
		return message{}
	}
	defer encoded.Free()
	return message{encoded.Materialize(), func(data []byte) (any, error) {
		like := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		return like, codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, like)
	}}
}

// forcedCodec returns the codec among call options, or nil if there is none.
func forcedCodec(opts []grpc.CallOption) encoding.CodecV2 {
	var codec encoding.CodecV2
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.ForceCodecV2CallOption:
			codec = o.CodecV2
		case grpc.ForceCodecCallOption:
			codec = firstCodec{o.Codec}
		}
	}
	return codec
}

// firstCodec is a codec of gRPC's first interface.
type firstCodec struct{ encoding.Codec }

func (c firstCodec) Marshal(m any) (mem.BufferSlice, error) {
	data, err := c.Codec.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(data)}, err
}

func (c firstCodec) Unmarshal(data mem.BufferSlice, m any) error {
	return c.Codec.Unmarshal(data.Materialize(), m)
}
