package interceptors

import (
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// keyField is the field of a request that holds a key. The zero value is none.
type keyField struct {
	request proto.Message
	field   protoreflect.FieldDescriptor
}

// keyField returns the field that the policy names, or an error if the request
// has no such field.
func (k *call) keyField(req any) (f keyField, err error) {
	if k.policy.KeyField == "" {
		return keyField{}, nil
	}
	message, ok := req.(proto.Message)
	if !ok {
		err = fmt.Errorf("key field %q: the request is not protobuf's", k.policy.KeyField)
	} else {
		f.request = message
		f.field, err = idempotency.FindKeyField(message.ProtoReflect().Descriptor(), k.policy.KeyField)
	}
	if err != nil {
		k.decision = notRetryable
		return keyField{}, newError(codes.InvalidArgument, ReasonPolicyInvalid, err.Error())
	}
	return f, nil
}

// key returns the key in the field, if there is a valid one.
func (f keyField) key() (idempotency.Key, bool) {
	if f.field == nil {
		return "", false
	}
	key := idempotency.Key(f.request.ProtoReflect().Get(f.field).String())
	return key, key.Validate() == nil
}

// empty reports whether there is a field with nothing in it.
func (f keyField) empty() bool {
	return f.field != nil && f.request.ProtoReflect().Get(f.field).String() == ""
}

// with returns a copy of the request with the key in its field.
func (f keyField) with(key idempotency.Key) proto.Message {
	request := proto.Clone(f.request)
	request.ProtoReflect().Set(f.field, protoreflect.ValueOfString(string(key)))
	return request
}
