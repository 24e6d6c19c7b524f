package shop

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Of adds the field of release 2 to a request, if the sender is of that release. The generated code here is that of release
// 1, for which the field is unknown, as it is for an old server during an upgrade.
func Of[M proto.Message](release int, request M) M {
	if release >= 2 {
		const channel = 100 // the number of the field
		field := protowire.AppendTag(nil, channel, protowire.BytesType)
		request.ProtoReflect().SetUnknown(protowire.AppendString(field, "web"))
	}
	return request
}
