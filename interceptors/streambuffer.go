package interceptors

import (
	"reflect"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
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

// kept are the messages of a stream that could be sent again.
type kept struct {
	messages []sentMessage
	size     int
}

// add keeps a message, and reports false if it is more than the limit of the call or of
// its client, or of a kind that cannot be kept.
func (k *kept) add(c *Client, limit int, m sentMessage) bool {
	size := len(m.data) + frameHeader
	if m.again == nil || k.size+size > limit {
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

// sentMessage is a message as it was when it was sent. The application may change its
// own as soon as SendMsg has returned, and most upload code does.
type sentMessage struct {
	data  []byte
	again func(data []byte) (any, error) // returns a message like it; nil if there can be none
}

// message returns a message to send again.
func (m sentMessage) message() (any, error) { return m.again(m.data) }

// sent returns a message as it is now, if the call's codec, or protobuf, or its own
// methods can encode and decode it.
func (k *call) sent(m any) sentMessage {
	if codec := forcedCodec(k.opts); codec != nil && reflect.ValueOf(m).Kind() == reflect.Pointer {
		return sentByCodec(codec, m)
	}
	switch m := m.(type) {
	case proto.Message:
		data, err := proto.Marshal(m)
		if err != nil {
			return sentMessage{} // gRPC has the error
		}
		return sentMessage{data, func(data []byte) (any, error) {
			like := m.ProtoReflect().New().Interface()
			return like, proto.Unmarshal(data, like)
		}}
	case protoadapt.MessageV1:
		data, err := proto.Marshal(protoadapt.MessageV2Of(m))
		if err != nil {
			return sentMessage{}
		}
		return sentMessage{data, func(data []byte) (any, error) {
			like := newLike(m)
			return like, proto.Unmarshal(data, protoadapt.MessageV2Of(like.(protoadapt.MessageV1))) //nolint:errcheck // it is of the same type
		}}
	default:
		return sentMessage{}
	}
}

func sentByCodec(codec encoding.CodecV2, m any) sentMessage {
	encoded, err := codec.Marshal(m)
	if err != nil {
		return sentMessage{}
	}
	defer encoded.Free()
	return sentMessage{encoded.Materialize(), func(data []byte) (any, error) {
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
