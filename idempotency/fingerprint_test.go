package idempotency_test

import (
	"testing"

	"github.com/hopbound/hopbound/idempotency"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// order is a message type made here: {request_id, item, count, mask, ship {to, note}, tags[], added}.
func order(t testing.TB, extra bool) protoreflect.MessageDescriptor {
	t.Helper()
	field := func(name string, number int32, kind descriptorpb.FieldDescriptorProto_Type, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{
			Name: &name, Number: &number, Type: &kind,
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
		if of != "" {
			f.TypeName = &of
		}
		return f
	}
	const text, message = descriptorpb.FieldDescriptorProto_TYPE_STRING, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	tags := field("tags", 6, message, ".x.Ship")
	tags.Label = descriptorpb.FieldDescriptorProto_LABEL_REPEATED.Enum()
	fields := []*descriptorpb.FieldDescriptorProto{
		field("request_id", 1, text, ""), field("item", 2, text, ""), field("count", 3, text, ""),
		field("mask", 4, message, ".google.protobuf.FieldMask"), field("ship", 5, message, ".x.Ship"), tags,
	}
	if extra {
		fields = append(fields, field("added", 7, text, ""))
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("x.proto"), Package: new("x"), Syntax: new("proto3"),
		Dependency: []string{"google/protobuf/field_mask.proto"},
		MessageType: []*descriptorpb.DescriptorProto{
			{Name: new("Order"), Field: fields},
			{Name: new("Ship"), Field: []*descriptorpb.FieldDescriptorProto{field("to", 1, text, ""), field("note", 2, text, "")}},
		},
	}, files{})
	if err != nil {
		t.Fatal(err)
	}
	return file.Messages().ByName("Order")
}

// files resolves the one file that order needs.
type files struct{}

func (files) FindFileByPath(string) (protoreflect.FileDescriptor, error) {
	return fieldmaskpb.File_google_protobuf_field_mask_proto, nil
}

func (files) FindDescriptorByName(protoreflect.FullName) (protoreflect.Descriptor, error) {
	return (&fieldmaskpb.FieldMask{}).ProtoReflect().Descriptor(), nil
}

// set returns an order with texts at paths of one or two names.
func set(d protoreflect.MessageDescriptor, texts map[string]string) *dynamicpb.Message {
	m := dynamicpb.NewMessage(d)
	for path, text := range texts {
		to := protoreflect.Message(m)
		name := path
		if path == "ship.to" || path == "ship.note" {
			to = m.Mutable(d.Fields().ByName("ship")).Message()
			name = path[len("ship."):]
		}
		to.Set(to.Descriptor().Fields().ByName(protoreflect.Name(name)), protoreflect.ValueOfString(text))
	}
	return m
}

func fingerprint(t *testing.T, m proto.Message, fields ...string) idempotency.Fingerprint {
	t.Helper()
	f, err := idempotency.NewFingerprinter(m.ProtoReflect().Descriptor(), "", fields...)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Of(m)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFingerprintsOfDifferentRequestsDiffer(t *testing.T) {
	t.Parallel()
	d := order(t, false)
	base := map[string]string{"item": "tea", "count": "1", "ship.to": "here", "request_id": "r1"}
	with := func(path, text string) *dynamicpb.Message {
		texts := map[string]string{path: text}
		for p, v := range base {
			if p != path {
				texts[p] = v
			}
		}
		return set(d, texts)
	}
	for name, tc := range map[string]struct {
		other  *dynamicpb.Message
		fields []string
		differ bool
	}{
		"the same":                           {set(d, base), nil, false},
		"another item":                       {with("item", "coffee"), nil, true},
		"another request id":                 {with("request_id", "r2"), nil, false},
		"another place":                      {with("ship.to", "there"), nil, true},
		"another item, not chosen":           {with("item", "coffee"), []string{"count"}, false},
		"another count, chosen":              {with("count", "2"), []string{"count", "item"}, true},
		"another place, chosen":              {with("ship.to", "there"), []string{"ship.to"}, true},
		"another note, the place chosen":     {with("ship.note", "soon"), []string{"ship.to"}, false},
		"another note, all of it chosen too": {with("ship.note", "soon"), []string{"ship.to", "ship"}, true},
	} {
		if got := fingerprint(t, set(d, base), tc.fields...).Differs(fingerprint(t, tc.other, tc.fields...)); got != tc.differ {
			t.Errorf("%s: differs is %v", name, got)
		}
	}
	masked := set(d, base)
	masked.Mutable(d.Fields().ByName("mask"))
	if fingerprint(t, set(d, base)).Differs(fingerprint(t, masked)) {
		t.Error("a field mask makes another request of it")
	}
}

// Fingerprints of different schemas are not compared, so that a deploy in the middle of a retention
// causes no false mismatch.
func TestFingerprintsOfDifferentSchemasDoNotDiffer(t *testing.T) {
	t.Parallel()
	before := fingerprint(t, set(order(t, false), map[string]string{"item": "tea"}))
	after := fingerprint(t, set(order(t, true), map[string]string{"item": "coffee"}))
	if before.Schema == after.Schema || before.Differs(after) || (idempotency.Fingerprint{}).Differs(before) {
		t.Errorf("%q and %q", before.Schema, after.Schema)
	}
	chosen := fingerprint(t, set(order(t, false), map[string]string{"item": "tea"}), "item")
	if chosen.Schema == before.Schema {
		t.Error("fingerprints of other fields have the same schema")
	}
}

func TestFingerprintFieldsMustExist(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"none", "ship.none", "item.to", "tags.to", ""} {
		if _, err := idempotency.NewFingerprinter(order(t, false), "", path); err == nil {
			t.Errorf("%q was accepted", path)
		}
	}
}

// Fields that a newer client sends and this server does not know, in any order, do not change the
// fingerprint.
func TestUnknownFieldsDoNotChangeAFingerprint(t *testing.T) {
	t.Parallel()
	m := order(t, false)
	f, err := idempotency.NewFingerprinter(m, "")
	if err != nil {
		t.Fatal(err)
	}
	sum := func(unknown ...byte) idempotency.Fingerprint {
		request := dynamicpb.NewMessage(m)
		request.SetUnknown(unknown)
		got, err := f.Of(request)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	const field = 1999 << 3
	one := protowire.AppendVarint(protowire.AppendVarint(nil, field), 1)
	two := protowire.AppendVarint(protowire.AppendVarint(nil, field), 2)
	if sum().Differs(sum(one...)) || sum(append(one, two...)...).Differs(sum(append(two, one...)...)) {
		t.Error("fields that are not known make another request")
	}
}
