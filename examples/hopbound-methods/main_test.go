package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/examples/internal/services"
	quickstartv1 "github.com/hopbound/hopbound/examples/quickstart/proto/hopbound/examples/quickstart/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is what the command has done.
type result struct {
	code     int
	out, log string
}

// invoke runs the command.
func invoke(t *testing.T, args ...string) result {
	t.Helper()
	return invokeWith(t, nil, args...)
}

func invokeWith(t *testing.T, stdin []byte, args ...string) result {
	t.Helper()
	var out, log bytes.Buffer
	code := run(args, bytes.NewReader(stdin), &out, &log)
	return result{code, out.String(), log.String()}
}

// want checks the exit code, and that the outputs contain all texts. An error has one line.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.log, text) {
			t.Errorf("no %q", text)
		}
	}
	if lines := strings.Count(r.log, "\n"); lines > 1 || (r.code == exitFailed) != (lines == 1) {
		t.Errorf("%d lines on standard error", lines)
	}
	if t.Failed() {
		t.Fatalf("standard output:\n%s\nstandard error:\n%s", r.out, r.log)
	}
}

// report returns the JSON object on standard output.
func (r result) report(t *testing.T) (read report) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(r.out))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&read); err != nil || strings.Count(r.out, "\n") != 1 {
		t.Fatalf("%v: %s", err, r.out)
	}
	return read
}

// write writes a file and returns its name.
func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// writeSet writes a descriptor set and returns the file's name.
func writeSet(t *testing.T, files ...*descriptorpb.FileDescriptorProto) string {
	t.Helper()
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: files})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, "set.binpb", raw)
}

// linked returns the descriptor of a file whose generated code is linked in.
func linked(file protoreflect.FileDescriptor) *descriptorpb.FileDescriptorProto {
	return protodesc.ToFileDescriptorProto(file)
}

// undeclared returns a file with a service of undeclared unary methods.
func undeclared(service string, methods ...string) *descriptorpb.FileDescriptorProto {
	s := &descriptorpb.ServiceDescriptorProto{Name: new(service)}
	for _, name := range methods {
		s.Method = append(s.Method, &descriptorpb.MethodDescriptorProto{
			Name: new(name), InputType: new(".google.protobuf.Empty"), OutputType: new(".google.protobuf.Empty"),
		})
	}
	return &descriptorpb.FileDescriptorProto{
		Name: new(strings.ToLower(service) + ".proto"), Package: new("shop.v1"),
		Dependency: []string{"google/protobuf/empty.proto"}, Service: []*descriptorpb.ServiceDescriptorProto{s},
	}
}

func TestExitCodeSaysWhetherAllMethodsAreDeclared(t *testing.T) {
	t.Parallel()
	prices := linked(quickstartv1.File_hopbound_examples_quickstart_v1_prices_proto)
	r := invoke(t, writeSet(t, prices))
	r.want(t, 0)
	if r.out != "0 of 2 methods are undeclared.\n" {
		t.Error(r.out)
	}
	invoke(t, writeSet(t, prices, undeclared("Orders", "Place"))).want(t, exitUndeclared, "1 of 3 methods is undeclared: its calls are not", "option idempotency_level = NO_SIDE_EFFECTS;")
	invoke(t, writeSet(t, prices, undeclared("Orders", "Place", "Cancel"))).want(t, exitUndeclared, "2 of 4 methods are undeclared: their calls are not")
	invoke(t).want(t, exitFailed, "give the files of descriptor sets, or -server")
}

func TestTableListsUndeclaredMethods(t *testing.T) {
	t.Parallel()
	file := writeSet(t, linked(quickstartv1.File_hopbound_examples_quickstart_v1_prices_proto), undeclared("Orders", "GetOrder", "Getaway", "Get2", "Place"))
	r := invoke(t, file)
	r.want(t, exitUndeclared, "METHOD                    KIND   DECLARED  POLICY  CALLS ARE\n"+
		"/shop.v1.Orders/GetOrder  unary  unknown   none    not retried once a server may have seen them\n")
	if strings.Contains(r.out, "PriceService") {
		t.Error(r.out)
	}
	invoke(t, "-all", file).want(t, exitUndeclared,
		"/GetPrice     unary          NO_SIDE_EFFECTS  retry (proto option)  retried\n",
		"/WatchPrices  server stream  NO_SIDE_EFFECTS  hedge (proto option)  hedged\n")
	r = invoke(t, file, "-suggest")
	r.want(t, exitUndeclared, "SUGGESTION", "GetOrder  unary  unknown   none    NO_SIDE_EFFECTS?", "Get2      unary  unknown   none    NO_SIDE_EFFECTS?",
		"Getaway   unary  unknown   none    -", "Place     unary  unknown   none    -", "guesses")
}

func TestJSONHasWhatTheTableHas(t *testing.T) {
	t.Parallel()
	file := writeSet(t, linked(quickstartv1.File_hopbound_examples_quickstart_v1_prices_proto), undeclared("Orders", "GetOrder", "Place"))
	r := invoke(t, "-json", "-suggest", file)
	r.want(t, exitUndeclared)
	read := r.report(t)
	if read.Total != 4 || read.Undeclared != 2 || len(read.Methods) != 2 {
		t.Error(r.out)
	}
	want := method{"/shop.v1.Orders/GetOrder", "unary", unknown, none, "not retried once a server may have seen them", true, "NO_SIDE_EFFECTS?"}
	if read.Methods[0] != want {
		t.Errorf("%+v", read.Methods[0])
	}
	r = invoke(t, "-json", writeSet(t, linked(quickstartv1.File_hopbound_examples_quickstart_v1_prices_proto)))
	r.want(t, 0)
	if r.out != `{"methods":[],"undeclared":0,"total":2}`+"\n" {
		t.Error(r.out)
	}
}

func TestDescriptorSetsAreReadInEachForm(t *testing.T) {
	t.Parallel()
	// The set has an option that the command does not know, no imports, and no package.
	file := undeclared("Orders", "Place")
	file.Package = nil
	set := &descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{linked(quickstartv1.File_hopbound_examples_quickstart_v1_prices_proto), file}}
	raw, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	text, err := protojson.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("{"), []byte(`{"bufExtension": {"isImport": true}, `), 1)
	const want = "/Orders/Place "
	invokeWith(t, raw, "-").want(t, exitUndeclared, want, "1 of 3")
	invokeWith(t, text, "-").want(t, exitUndeclared, want, "1 of 3")
	a, b := write(t, "set.binpb", raw), write(t, "set.json", text)
	r := invoke(t, "-all", a, "-json", b) // the services are in both, and are listed once
	r.want(t, exitUndeclared)
	if read := r.report(t); read.Total != 3 || read.Methods[0].Policy != "retry (proto option)" {
		t.Error(r.out)
	}
}

// A binary descriptor set whose first file has 123 bytes begins as a text in JSON may begin.
func TestBinaryDescriptorSetIsNotTakenForJSON(t *testing.T) {
	t.Parallel()
	file := undeclared("Orders", "Place")
	file.Package = new("shop")
	for proto.Size(file) < 123 {
		file.Package = new(file.GetPackage() + "x")
	}
	raw, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{file}})
	if err != nil || !bytes.HasPrefix(raw, []byte("\n{")) {
		t.Fatalf("%q %v", raw[:2], err)
	}
	invokeWith(t, raw, "-").want(t, exitUndeclared, "Orders/Place", "1 of 1")
}

// Only the packages of gRPC are gRPC's.
func TestServiceWhoseNameBeginsLikeThoseOfGRPCIsCounted(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]int{
		"grpc": exitUndeclared, "grpc.shop.v1": exitUndeclared, "grpc.health.v1beta": exitUndeclared,
		"grpc.health.v1": exitFailed, "grpc.reflection.v1alpha": exitFailed,
	} {
		file := undeclared("Orders", "Place")
		file.Package = &name
		invoke(t, writeSet(t, file)).want(t, code)
	}
}

func TestFailureIsExplainedInOneLine(t *testing.T) {
	t.Parallel()
	set := writeSet(t, undeclared("Orders", "Place"))
	missing := filepath.Join(t.TempDir(), "missing")
	nameless := undeclared("Orders", "Place")
	nameless.Name = nil
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no such file":         {[]string{missing}, "no such file"},
		"source file":          {[]string{"testdata/boutique.proto"}, "testdata/boutique.proto is not a descriptor set, as protoc --descriptor_set_out and buf build -o write it"},
		"empty file":           {[]string{write(t, "empty", nil)}, "it contains no file"},
		"no JSON":              {[]string{write(t, "set.json", []byte("{]"))}, "is not a descriptor set"},
		"other JSON":           {[]string{write(t, "set.json", []byte(`{"name": "shop"}`))}, "it contains no file"},
		"file without a name":  {[]string{writeSet(t, nameless)}, "it contains a file without a name"},
		"no services":          {[]string{writeSet(t, linked(descriptorpb.File_google_protobuf_descriptor_proto))}, "has no services"},
		"second without":       {[]string{set, writeSet(t, linked(descriptorpb.File_google_protobuf_descriptor_proto))}, "has no services"},
		"service is empty":     {[]string{writeSet(t, undeclared("Orders"))}, "there are no methods other than those of gRPC's own services"},
		"unknown flag":         {[]string{"-verbose", set}, "-verbose"},
		"files and a server":   {[]string{"-server=localhost:1", set}, "not both"},
		"no time":              {[]string{"-timeout=0s", set}, "-timeout must be positive"},
		"no such policy":       {[]string{"-policy", missing, set}, "no such file"},
		"policy without JSON":  {[]string{"-policy", set, set}, "invalid JSON"},
		"invalid policy":       {[]string{"-policy", write(t, "p", []byte(`{"methodConfig": [{"name": [{"method": "Get"}], "timeout": 5}]}`)), set}, "; $.methodConfig[0].name[0]: has a method but no service"},
		"plaintext with CA":    {[]string{"-server=localhost:1", "-plaintext", "-ca", missing}, "-ca cannot be used with -plaintext"},
		"no such CA":           {[]string{"-server=localhost:1", "-ca", missing}, "no such file"},
		"CA without authority": {[]string{"-server=localhost:1", "-ca", set}, "has no certificate in PEM"},
		"invalid address":      {[]string{"-server=:::"}, "invalid target address :::"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := invoke(t, tc.args...)
			r.want(t, exitFailed, "hopbound-methods: ", tc.want)
			if r.out != "" {
				t.Error(r.out)
			}
		})
	}
}

func TestHelpListsTheFlags(t *testing.T) {
	t.Parallel()
	invoke(t, "-h").want(t, 0, "Usage: hopbound-methods", "Exit codes:", "-policy file", "-server host:port")
}

// boutique returns the descriptors of testdata/boutique.proto.
func boutique(t *testing.T) *descriptorpb.FileDescriptorProto {
	t.Helper()
	out := filepath.Join(t.TempDir(), "set.binpb")
	cmd := exec.CommandContext(t.Context(), services.Protoc(t), "-I", "testdata", "--descriptor_set_out="+out, "boutique.proto")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil || len(set.GetFile()) != 1 {
		t.Fatalf("%v, %v", err, &set)
	}
	return set.GetFile()[0]
}
