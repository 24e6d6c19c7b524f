package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that is checked
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// keyedMethod is how a server runs the writes of a method once for each key.
type keyedMethod struct {
	idempotency.MethodSettings
	keyField     protoreflect.FieldDescriptor // nil if there is none
	fingerprints *idempotency.Fingerprinter
	response     protoreflect.MessageType
	hash         uint64 // of the full name, as reports have it
	unsupported  error  // why its outcomes cannot be kept
}

// newKeyed returns how writes of a method are run once, or nil if they are not,
// or if it has no side effects.
func (s *Server) newKeyed(m *method) *keyedMethod {
	if s.store == nil {
		return nil
	}
	level := m.declared.policy.Idempotency
	if level == Unspecified {
		level = m.level
	}
	k := &keyedMethod{MethodSettings: s.keyed.ForMethod(m.full, m.declared.keys), hash: hashOf(m.full)}
	if k.Off || level == NoSideEffects {
		return nil
	}
	k.unsupported = k.find(m.name)
	return k
}

// keys sets what a method's proto file says of its keys.
func (d *declaration) keys(m *idempotency.MethodSettings) {
	m.KeyRequired = m.KeyRequired || d.policy.KeyRequired
	if d.policy.KeyField != "" {
		m.KeyField = d.policy.KeyField
	}
	if d.retention > 0 {
		m.Retention = d.retention
	}
	if len(d.fingerprint) > 0 {
		m.Fingerprint = d.fingerprint
	}
}

// find looks up what a method's calls are made of.
func (k *keyedMethod) find(name string) error {
	d := findMethod(name)
	if d == nil {
		return errors.New("it has no descriptor among the linked protobuf files, by which its response could be read again")
	}
	var err error
	if k.fingerprints, err = idempotency.NewFingerprinter(d.Input(), k.KeyField, k.Fingerprint...); err != nil {
		return err
	}
	if k.keyField, err = idempotency.FindKeyField(d.Input(), k.KeyField); err != nil {
		return err
	}
	if k.response, err = protoregistry.GlobalTypes.FindMessageByName(d.Output().FullName()); err != nil {
		return fmt.Errorf("its response %s is no linked Go type: %w", d.Output().FullName(), err)
	}
	return nil
}

// checkKeyed returns what is wrong with the options of idempotency that can be
// told before any service is registered.
func (s *Server) checkKeyed() error {
	if s.store == nil {
		return nil
	}
	errs := []error{checkCodec()}
	if len(s.edge) > 0 && s.sharesKeys() {
		errs = append(errs, errors.New("WithIdempotency: with AtEdge, callers from outside could use each other's keys: "+
			"tell them apart by idempotency.Tenant, or allow it by idempotency.SharedKeys"))
	}
	for _, name := range s.keyed.Methods() {
		d := findMethod(strings.TrimPrefix(name, "/"))
		if d == nil { // of a service, or not linked in: Check knows more
			continue
		}
		if k := s.newMethod(name).keyed; k != nil {
			errs = append(errs, k.check(name, d.IsStreamingClient() || d.IsStreamingServer(), true))
		}
	}
	return errors.Join(errs...)
}

// sharesKeys reports whether nothing but the transport tells callers apart, and nobody has
// said that this is meant.
func (s *Server) sharesKeys() bool { return s.keyed.Tenant == nil && !s.keyed.Shared }

// checkCodec returns an error if messages do not travel as protobuf.
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

// check returns what is wrong with a method, which may be a stream, and whose own
// settings may have been set by name.
func (k *keyedMethod) check(name string, stream, named bool) error {
	switch {
	case stream && named && k.KeyRequired:
		return fmt.Errorf("%s: a key is required, but it is a stream", name)
	case stream:
		return nil
	case k.unsupported != nil:
		return fmt.Errorf("%s: its outcomes cannot be kept: %w", name, k.unsupported)
	default:
		return nil
	}
}

// Services are what a [grpc.Server] serves.
type Services interface {
	GetServiceInfo() map[string]grpc.ServiceInfo
}

// Check returns what would keep [WithIdempotency] from keeping the outcomes of the
// methods of the services, joined: a response whose type is not linked in, a
// service that is not protobuf's, a stream that requires a key, a method that was
// named in an option and does not exist. Call it with a [grpc.Server] after all
// services have been registered and before it serves. For services that it cannot
// be used for, use [idempotency.Off].
//
// It logs a warning if nothing but the transport tells callers apart; see
// [idempotency.Tenant] and [idempotency.SharedKeys].
//
// A call with a key of a method that would not have passed fails with INTERNAL
// and the reason KEY_UNSUPPORTED.
func (s *Server) Check(services Services) error {
	if s.store == nil {
		return nil
	}
	if s.sharesKeys() {
		s.log().Warn("hopbound: callers without a transport identity (mutual TLS, ALTS) share their idempotency keys; " +
			"set idempotency.Tenant, or idempotency.SharedKeys if this is meant")
	}
	var errs []error
	named := map[string]bool{}
	for _, name := range s.keyed.Methods() {
		named[name] = true
	}
	known := map[string]bool{}
	info := services.GetServiceInfo()
	for _, service := range slices.Sorted(maps.Keys(info)) {
		known["/"+service+"/"] = true
		for _, m := range info[service].Methods {
			full := "/" + service + "/" + m.Name
			known[full] = true
			if k := s.newMethod(full).keyed; k != nil {
				errs = append(errs, k.check(full, m.IsClientStream || m.IsServerStream, named[full]))
			}
		}
	}
	for _, name := range s.keyed.Methods() {
		if !known[name] {
			errs = append(errs, fmt.Errorf("ForMethod(%q): no such service or method is registered", name))
		}
	}
	return errors.Join(errs...)
}
