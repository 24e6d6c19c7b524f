package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// FindMethod returns the descriptor of a method, given as "/service/method", or nil unless the
// generated code of its service is linked in.
func FindMethod(fullMethod string) protoreflect.MethodDescriptor {
	service, method, ok := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	if !ok {
		return nil
	}
	full := protoreflect.FullName(service + "." + method)
	if !full.IsValid() {
		return nil
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return nil
	}
	descriptor, _ := d.(protoreflect.MethodDescriptor)
	return descriptor
}

// DeclaredLevel returns the idempotency_level of a method's descriptor, which may be nil.
func DeclaredLevel(d protoreflect.MethodDescriptor) Level {
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

// HashOf returns the first eight bytes of the SHA-256 of a full method, by which reports name it.
func HashOf(fullMethod string) uint64 {
	sum := sha256.Sum256([]byte(fullMethod))
	return binary.BigEndian.Uint64(sum[:])
}
