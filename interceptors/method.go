package interceptors

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"sync/atomic"

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

	spans *spanOptions // nil if there is no tracer
	known atomic.Bool  // registered or configured, so that metrics may name it

	limits Limits // at its server

	keyed *keyedMethod // at its server, if its writes are to be run once for each key
}

func newMethod(fullMethod string, declared declarations) *method {
	name := strings.TrimPrefix(fullMethod, "/")
	descriptor := findMethod(name)
	m := &method{full: fullMethod, name: name, level: declaredLevel(descriptor), declared: declared[fullMethod]}
	m.known.Store(descriptor != nil)
	return m
}

// hashOf returns the first eight bytes of the SHA-256 of a full method.
func hashOf(fullMethod string) uint64 {
	sum := sha256.Sum256([]byte(fullMethod))
	return binary.BigEndian.Uint64(sum[:])
}

// otherMethods is how metrics name all methods that are neither registered nor
// configured, whose names might be any (gRFC A66).
const otherMethods = "other"

// label returns the method's name in metrics.
func (m *method) label() string {
	if m.known.Load() {
		return m.name
	}
	return otherMethods
}

// register notes that the method is one of those that the program is made with.
func (m *method) register() {
	if !m.known.Load() {
		m.known.Store(true)
	}
}

func (c *Client) newMethod(fullMethod string) *method {
	m := newMethod(fullMethod, c.declared)
	m.spans = c.trace.options(m.name)
	m.configured = c.config.methods.ForMethod(fullMethod)
	literals, fixed := c.policy.(MethodPolicies)
	if literals.names(fullMethod) || c.config.methods.names(fullMethod) {
		m.known.Store(true)
	}
	if fixed {
		literal := literals.ForMethod(fullMethod)
		m.policy = resolve(&literal, &m.configured, &m.declared.policy)
	}
	return m
}

// methodOf returns what is known of a method. Nothing is kept of one that is neither
// registered nor linked in: a server with a handler for unknown services is called with
// whatever names its callers make up.
func (s *Server) methodOf(fullMethod string, registered bool) *method {
	if registered || findMethod(strings.TrimPrefix(fullMethod, "/")) != nil {
		return s.methods.get(fullMethod, s.newMethod)
	}
	return s.newMethod(fullMethod)
}

func (s *Server) newMethod(fullMethod string) *method {
	m := newMethod(fullMethod, s.declared)
	m.spans = s.trace.options(m.name)
	m.limits = s.limitsOf(fullMethod)
	m.keyed = s.newKeyed(m)
	return m
}

// findMethod returns the descriptor of a method, or nil unless the generated code
// of its service is linked in.
func findMethod(name string) protoreflect.MethodDescriptor {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return nil
	}
	full := protoreflect.FullName(name[:i] + "." + name[i+1:])
	if !full.IsValid() {
		return nil
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return nil
	}
	method, _ := d.(protoreflect.MethodDescriptor)
	return method
}

// declaredLevel returns the idempotency_level of a method's descriptor, which
// may be nil.
func declaredLevel(d protoreflect.MethodDescriptor) IdempotencyLevel {
	if d == nil {
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
