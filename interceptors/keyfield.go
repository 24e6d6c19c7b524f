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
		k.refused(ReasonPolicyInvalid)
		k.decision = notRetryable
		return keyField{}, newError(codes.InvalidArgument, ReasonPolicyInvalid, err.Error())
	}
	return f, nil
}

// key returns what is in the field.
func (f keyField) key() idempotency.Key {
	return idempotency.Key(f.request.ProtoReflect().Get(f.field).String())
}

// empty reports whether there is nothing in the field, or no field.
func (f keyField) empty() bool { return f.field == nil || f.key() == "" }

// with returns a copy of the request with the key in its field.
func (f keyField) with(key idempotency.Key) proto.Message {
	request := proto.Clone(f.request)
	if !request.ProtoReflect().IsValid() { // a nil of its type
		request = f.request.ProtoReflect().New().Interface()
	}
	request.ProtoReflect().Set(f.field, protoreflect.ValueOfString(string(key)))
	return request
}
