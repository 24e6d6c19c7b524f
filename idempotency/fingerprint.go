package idempotency

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Fingerprint is a hash of a request, by which a store recognises that one key was used for two
// different requests. The zero value does not differ from any other fingerprint.
type Fingerprint struct {
	// Schema identifies the descriptors of the request and of all messages in it, and the chosen
	// fields. Deterministic marshalling differs between schemas, so sums of different schemas
	// cannot be compared.
	Schema string
	Sum    [sha256.Size]byte
}

// Differs reports whether the requests are certainly different. Two fingerprints of different
// schemas, which occur during a rolling deployment, do not differ.
func (f Fingerprint) Differs(other Fingerprint) bool {
	return f.Schema != "" && f.Schema == other.Schema && f.Sum != other.Sum
}

// Fingerprinter makes the fingerprints of one method's requests. It is for authors of other
// transports. It is safe for concurrent use.
type Fingerprinter struct {
	descriptor protoreflect.MessageDescriptor
	paths      [][]protoreflect.FieldDescriptor // the chosen fields; nil is all but the omitted ones
	omitted    []protoreflect.FieldDescriptor
	schema     func() (string, error)
}

// NewFingerprinter returns a Fingerprinter for requests of a type. Fingerprints cover the given
// fields, which are paths of field names separated by dots. Without fields, they cover all fields
// except the key field, field masks, and request_id, which is itself a key (AIP-155).
// NewFingerprinter returns an error for a path that names no field or leads through a list or a map,
// and for a key field that is missing or not a string.
func NewFingerprinter(request protoreflect.MessageDescriptor, keyField string, fields ...string) (*Fingerprinter, error) {
	f := &Fingerprinter{descriptor: request}
	errs := make([]error, 0, len(fields)+1)
	if _, err := FindKeyField(request, keyField); err != nil {
		errs = append(errs, err)
	}
	for _, path := range fields {
		chosen, err := resolvePath(request, path)
		errs = append(errs, err)
		if !slices.ContainsFunc(fields, func(other string) bool { return strings.HasPrefix(path, other+".") }) {
			f.paths = append(f.paths, chosen) // else a chosen message contains it
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if len(fields) == 0 {
		for i := range request.Fields().Len() {
			if field := request.Fields().Get(i); omitted(field) || string(field.Name()) == keyField {
				f.omitted = append(f.omitted, field)
			}
		}
	}
	sorted := slices.Sorted(slices.Values(fields))
	f.schema = sync.OnceValues(func() (string, error) { return schemaName(request, keyField, slices.Compact(sorted)) })
	return f, nil
}

// FindKeyField returns the field of a request that contains the key, or nil if the name is empty. It
// returns an error if the request has no field of that name, or the field is not a string. It is for
// authors of other transports.
func FindKeyField(request protoreflect.MessageDescriptor, name string) (protoreflect.FieldDescriptor, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	field := request.Fields().ByName(protoreflect.Name(name))
	if field == nil {
		return nil, fmt.Errorf("key field %q: %s has no such field", name, request.FullName())
	}
	if field.Kind() != protoreflect.StringKind || field.Cardinality() == protoreflect.Repeated {
		return nil, fmt.Errorf("key field %q of %s is not a string", name, request.FullName())
	}
	return field, nil
}

// omitted reports whether a field is not covered by fingerprints of all fields.
func omitted(field protoreflect.FieldDescriptor) bool {
	return field.Name() == "request_id" ||
		field.Message() != nil && field.Message().FullName() == "google.protobuf.FieldMask"
}

func resolvePath(m protoreflect.MessageDescriptor, path string) ([]protoreflect.FieldDescriptor, error) {
	var fields []protoreflect.FieldDescriptor
	for name := range strings.SplitSeq(path, ".") {
		if m == nil {
			return nil, fmt.Errorf("fingerprint field %q: %s is not a message", path, fields[len(fields)-1].Name())
		}
		if n := len(fields); n > 0 && (fields[n-1].IsList() || fields[n-1].IsMap()) {
			return nil, fmt.Errorf("fingerprint field %q: %s is a list or a map", path, fields[n-1].Name())
		}
		field := m.Fields().ByName(protoreflect.Name(name))
		if field == nil {
			return nil, fmt.Errorf("fingerprint field %q: %s has no field %q", path, m.FullName(), name)
		}
		fields = append(fields, field)
		m = field.Message()
	}
	return fields, nil
}

// schemaName returns a name that is different whenever the same request might be marshalled
// differently. The name contains a hash of the descriptors of the message and of all messages that it
// refers to, of the key field and of the chosen fields.
func schemaName(m protoreflect.MessageDescriptor, keyField string, fields []string) (string, error) {
	seen := map[protoreflect.FullName]protoreflect.MessageDescriptor{}
	var visit func(protoreflect.MessageDescriptor)
	visit = func(m protoreflect.MessageDescriptor) {
		if _, ok := seen[m.FullName()]; ok {
			return
		}
		seen[m.FullName()] = m
		for i := range m.Fields().Len() {
			if sub := m.Fields().Get(i).Message(); sub != nil {
				visit(sub)
			}
		}
	}
	visit(m)
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, string(name))
	}
	slices.Sort(names)
	parts := []string{keyField, strings.Join(fields, ",")}
	for _, name := range names {
		raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(protodesc.ToDescriptorProto(seen[protoreflect.FullName(name)]))
		if err != nil {
			return "", fmt.Errorf("descriptor of %s: %w", name, err)
		}
		parts = append(parts, name, string(raw))
	}
	sum := hash(parts...)
	return string(m.FullName()) + "@" + hex.EncodeToString(sum[:8]), nil
}

// Of returns the fingerprint of a request. It returns an error if the request is not of the type that
// the Fingerprinter was made for.
func (f *Fingerprinter) Of(request proto.Message) (Fingerprint, error) {
	m := request.ProtoReflect()
	if m.Descriptor().FullName() != f.descriptor.FullName() {
		return Fingerprint{}, fmt.Errorf("fingerprint of %s: got a %s", f.descriptor.FullName(), m.Descriptor().FullName())
	}
	schema, err := f.schema()
	if err != nil {
		return Fingerprint{}, err
	}
	switch {
	case f.paths != nil:
		m = f.chosen(m)
	case f.anyOmitted(m):
		m = proto.Clone(request).ProtoReflect()
		for _, field := range f.omitted {
			m.Clear(field)
		}
	}
	raw, err := marshalKnown(m.Interface())
	if err != nil {
		return Fingerprint{}, fmt.Errorf("fingerprint of %s: %w", f.descriptor.FullName(), err)
	}
	return Fingerprint{Schema: schema, Sum: sha256.Sum256(raw)}, nil
}

// marshalKnown marshals a message without its unknown fields, because their order is not
// deterministic.
func marshalKnown(m proto.Message) ([]byte, error) {
	deterministic := proto.MarshalOptions{Deterministic: true}
	raw, err := deterministic.Marshal(m)
	if err != nil {
		return nil, err
	}
	known := m.ProtoReflect().New().Interface()
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, known); err != nil {
		return nil, err
	}
	return deterministic.Marshal(known)
}

func (f *Fingerprinter) anyOmitted(m protoreflect.Message) bool {
	return slices.ContainsFunc(f.omitted, m.Has)
}

// chosen returns a copy of the message that has only the chosen fields.
func (f *Fingerprinter) chosen(m protoreflect.Message) protoreflect.Message {
	out := m.New()
	for _, path := range f.paths {
		from, to := m, out
		last := len(path) - 1
		for _, field := range path[:last] {
			if !from.Has(field) {
				from = nil
				break
			}
			from, to = from.Get(field).Message(), to.Mutable(field).Message()
		}
		if from != nil && from.Has(path[last]) {
			to.Set(path[last], from.Get(path[last]))
		}
	}
	return out
}
