package interceptors

import (
	"reflect"

	"google.golang.org/protobuf/proto"
)

// replyBefore returns what a unary call's reply is before its first attempt, if it is a
// pointer to something other than a message of protobuf.
func replyBefore(reply any) (before reflect.Value) {
	if _, ok := reply.(proto.Message); ok {
		return before
	}
	if v := reflect.ValueOf(reply); v.Kind() == reflect.Pointer && !v.IsNil() {
		before = reflect.New(v.Type().Elem()).Elem()
		before.Set(v.Elem())
	}
	return before
}

// clearReply makes a reply what it was before, because an attempt that failed may have
// got a response: some codecs read into a message without clearing it.
func clearReply(reply any, before reflect.Value) {
	if m, ok := reply.(proto.Message); ok {
		proto.Reset(m)
	} else if before.IsValid() {
		reflect.ValueOf(reply).Elem().Set(before)
	}
}
