package interceptors

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// method is what is known of a method for good.
type method struct {
	full       string // /service/method
	name       string // service/method, as spans and metrics have it
	level      IdempotencyLevel
	declared   declaration
	configured Policy // by the service config
	policy     Policy // if it is the same for all calls without one of their own
}

func newMethod(fullMethod string, declared declarations) *method {
	name := strings.TrimPrefix(fullMethod, "/")
	return &method{full: fullMethod, name: name, level: declaredLevel(name), declared: declared[fullMethod]}
}

func (c *Client) newMethod(fullMethod string) *method {
	m := newMethod(fullMethod, c.declared)
	m.configured = c.config.methods.ForMethod(fullMethod)
	if literals, fixed := c.policy.(MethodPolicies); fixed {
		literal := literals.ForMethod(fullMethod)
		m.policy = resolve(&literal, &m.configured, &m.declared.policy)
	}
	return m
}

func (s *Server) newMethod(fullMethod string) *method { return newMethod(fullMethod, s.declared) }

// declaredLevel returns the idempotency_level of a method's descriptor, if the
// generated code of its service is linked in.
func declaredLevel(name string) IdempotencyLevel {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return Unspecified
	}
	full := protoreflect.FullName(name[:i] + "." + name[i+1:])
	if !full.IsValid() {
		return Unspecified
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return Unspecified
	}
	options, ok := d.Options().(*descriptorpb.MethodOptions)
	if !ok {
		return Unspecified
	}
	switch options.GetIdempotencyLevel() {
	case descriptorpb.MethodOptions_NO_SIDE_EFFECTS:
		return NoSideEffects
	case descriptorpb.MethodOptions_IDEMPOTENT:
		return Idempotent
	default:
		return Unspecified
	}
}
