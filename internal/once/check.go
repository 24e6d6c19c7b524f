package once

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hopbound/hopbound/internal/policy"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is checked
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type (
	keyFieldDescriptor = protoreflect.FieldDescriptor // nil if the method has no key field
	responseType       = protoreflect.MessageType
)

// findResponse returns the Go type of a method's response.
func findResponse(d protoreflect.MethodDescriptor) (responseType, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.Output().FullName())
	if err != nil {
		return nil, fmt.Errorf("the Go type of its response %s is not linked in: %w", d.Output().FullName(), err)
	}
	return t, nil
}

// CheckOptions returns the errors that can be found before any service is registered, joined. The
// argument newMethod returns the server's settings of a method, and edge says that some callers are
// not trusted.
func (s *Server) CheckOptions(newMethod func(fullMethod string) *Method, edge bool) error {
	if s.store == nil {
		return nil
	}
	errs := []error{checkCodec()}
	if edge && s.SharesKeys() {
		errs = append(errs, errors.New("WithIdempotency: with AtEdge, untrusted callers could use each other's keys: "+
			"distinguish them by idempotency.Tenant, or allow it by idempotency.SharedKeys"))
	}
	for _, name := range s.settings.Methods() {
		d := policy.FindMethod(name)
		if d == nil { // the name is that of a service, or the method is not linked in: Check knows more
			continue
		}
		if m := newMethod(name); m != nil {
			errs = append(errs, m.check(name, d.IsStreamingClient() || d.IsStreamingServer(), true))
		}
	}
	return errors.Join(errs...)
}

// SharesKeys reports whether only the transport distinguishes callers, and no option says that this
// is intended.
func (s *Server) SharesKeys() bool {
	return s.store != nil && s.settings.Tenant == nil && !s.settings.Shared
}

// checkCodec returns an error if the codec for protobuf does not read protobuf.
func checkCodec() error {
	const text = "a message"
	raw, err := proto.Marshal(wrapperspb.String(text))
	if err != nil {
		return err
	}
	codec := encoding.GetCodecV2("proto")
	var read wrapperspb.StringValue
	if codec == nil || codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, &read) != nil || read.GetValue() != text {
		return errors.New("WithIdempotency: the codec that is registered as proto does not read protobuf")
	}
	return nil
}

// CheckServices returns the errors that prevent outcomes of the registered methods from being
// stored, joined.
func (s *Server) CheckServices(newMethod func(fullMethod string) *Method, services map[string]grpc.ServiceInfo) error {
	if s.store == nil {
		return nil
	}
	var errs []error
	named := map[string]bool{}
	for _, name := range s.settings.Methods() {
		named[name] = true
	}
	known := map[string]bool{}
	for _, service := range slices.Sorted(maps.Keys(services)) {
		known["/"+service+"/"] = true
		for _, info := range services[service].Methods {
			full := "/" + service + "/" + info.Name
			known[full] = true
			if m := newMethod(full); m != nil {
				errs = append(errs, m.check(full, info.IsClientStream || info.IsServerStream, named[full]))
			}
		}
	}
	for _, name := range s.settings.Methods() {
		if !known[name] {
			errs = append(errs, fmt.Errorf("ForMethod(%q): no such service or method is registered", name))
		}
	}
	return errors.Join(errs...)
}

// check returns the error of a method, or nil. The argument named says that an option names the
// method.
func (m *Method) check(name string, stream, named bool) error {
	switch {
	case stream && named && m.KeyRequired:
		return fmt.Errorf("%s: a key is required, but the method is a stream", name)
	case stream:
		return nil
	case m.unsupported != nil:
		return fmt.Errorf("%s: its outcomes cannot be stored: %w", name, m.unsupported)
	default:
		return nil
	}
}
