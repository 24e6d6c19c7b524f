package outbound

import (
	"context"
	"fmt"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/internal/hoperr"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// addKey gives a unary call its idempotency key, if it has none of its own. It returns the request to
// send: the user's own, or a copy with the key in its key field. It does not change a call that is
// only observed.
func (c *Call) addKey(req any) (any, error) {
	_, inMetadata := metadataKey(c.Context)
	inMetadata = inMetadata && !c.hasKey
	key, field, err := c.findKey(req)
	mayHaveEffect := c.policy.MayHaveEffect(c.method.level)
	c.keyedAbove = err == nil && key == "" && mayHaveEffect && c.request != nil && c.request.WouldRun
	c.childKey = c.childKey || c.keyedAbove
	switch {
	case c.Observe:
		c.wouldKey = c.keyedAbove || key != ""
		return req, nil
	case err != nil:
		return nil, err
	}
	if !c.hasKey && !inMetadata {
		c.key, c.hasKey = key, key != ""
	}
	if field.field == nil || !field.empty() || key == "" {
		return req, nil
	}
	return field.with(key), nil
}

// findKey returns the key of a unary call. It is the first of these that exists: the call's own key,
// the key in the outgoing metadata, the key in the request, a child of the key under which the calling
// handler runs and, if the method requires a key, a new one. A call with a child key is counted among
// the handler's calls in every mode, because the child keys of later calls must not depend on the
// mode.
func (c *Call) findKey(req any) (key idempotency.Key, field keyField, err error) {
	if field, err = c.keyField(req); err != nil {
		return "", field, err
	}
	text, inMetadata := metadataKey(c.Context)
	switch {
	case c.hasKey:
		key = c.key
	case inMetadata:
		if key, err = idempotency.ParseKey(text); err != nil {
			err = c.rejectInvalid(hoperr.KeyInvalid, err)
		}
	case !field.empty():
		key = field.key() // Reject validates it
	default:
		key, c.childKey = idempotency.ForCall(c.Context, c.FullMethod, c.policy.MayHaveEffect(c.method.level))
		if !c.childKey && c.policy.KeyRequired {
			key = idempotency.NewKey()
		}
	}
	return key, field, err
}

// forwardsKey reports whether a call that is only observed carries the key of the request that it
// belongs to, because the handler has forwarded this key. If the server enforced, the call would carry
// a child key instead.
func (c *Call) forwardsKey() bool {
	return !c.hasKey && c.wouldKey && c.request != nil && c.request.WouldRun &&
		c.sentKey() != "" && c.sentKey() == c.request.MetadataKey()
}

// metadataKey returns the key that the user has put into the outgoing metadata.
func metadataKey(ctx context.Context) (string, bool) {
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok || len(md[idempotency.Header]) != 1 {
		return "", false
	}
	return md[idempotency.Header][0], true
}

// sentKey returns the key that the call carries, or the empty key.
func (c *Call) sentKey() idempotency.Key {
	if c.hasKey {
		return c.key
	}
	if text, ok := metadataKey(c.Context); ok {
		key, _ := idempotency.ParseKey(text) // empty if it is invalid
		return key
	}
	return ""
}

// keyInProgress reports whether a failure says that another call with the same key is still running.
// Such a call is retried to get the outcome, whatever codes the policy retries.
func (c *Call) keyInProgress(err error) bool {
	if c.sentKey() == "" || hoperr.Code(err) != codes.Aborted {
		return false
	}
	reason := hoperr.Reason(err)
	return reason == hoperr.InProgress || reason == hoperr.LeaseLost
}

// safe reports whether the call is safe to repeat even if a server has seen it.
func (c *Call) safe() bool {
	return c.policy.Safe(c.method.level, c.client.config.Strict) || c.safeByKey()
}

// safeByKey reports whether the call is safe to repeat because of its key. A key that the application
// or its policy has chosen makes the call safe. A child key exists because a caller, perhaps an
// untrusted one, has sent a key. It makes the call safe only if the method declares keys or the callee
// has reported that it stores outcomes. See ADR 0018.
func (c *Call) safeByKey() bool {
	switch {
	case !c.wouldKey && c.sentKey() == "":
		return false
	case !c.childKey, c.policy.KeyRequired, c.policy.KeyField != "", c.method.declared.DeclaresKeys():
		return true
	default:
		return c.target.storesOutcomes(c.FullMethod).Load()
	}
}

// keyField is the field of a request that holds a key. The zero value is no field.
type keyField struct {
	request proto.Message
	field   protoreflect.FieldDescriptor
}

// keyField returns the field that the policy names, or an error if the request has no such field.
func (c *Call) keyField(req any) (f keyField, err error) {
	if c.policy.KeyField == "" {
		return keyField{}, nil
	}
	message, ok := req.(proto.Message)
	if !ok {
		err = fmt.Errorf("key field %q: the request is not a protobuf message", c.policy.KeyField)
	} else {
		f.request = message
		f.field, err = idempotency.FindKeyField(message.ProtoReflect().Descriptor(), c.policy.KeyField)
	}
	if err != nil {
		return keyField{}, c.rejectInvalid(hoperr.PolicyInvalid, err)
	}
	return f, nil
}

// key returns the value of the field.
func (f keyField) key() idempotency.Key {
	return idempotency.Key(f.request.ProtoReflect().Get(f.field).String())
}

// empty reports whether the field is empty, or there is no field.
func (f keyField) empty() bool { return f.field == nil || f.key() == "" }

// with returns a copy of the request with the key in its field.
func (f keyField) with(key idempotency.Key) proto.Message {
	request := proto.Clone(f.request)
	if !request.ProtoReflect().IsValid() { // a nil pointer to a message
		request = f.request.ProtoReflect().New().Interface()
	}
	request.ProtoReflect().Set(f.field, protoreflect.ValueOfString(string(key)))
	return request
}
