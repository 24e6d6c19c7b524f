package policy

import (
	"testing"

	testv1 "github.com/hopbound/hopbound/internal/testproto/hopbound/test/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Whatever the option (hopbound.v1.method) of a proto file has in it, it is an error or a
// policy that is valid.
func FuzzProtoOption(f *testing.F) {
	service := testv1.File_hopbound_test_v1_test_proto.Services().ByName("TestService")
	for i := range service.Methods().Len() {
		raw, err := proto.Marshal(service.Methods().Get(i).Options())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var options descriptorpb.MethodOptions
		if proto.Unmarshal(raw, &options) != nil {
			return
		}
		option, err := optionOf(&options)
		if option == nil || err != nil {
			return
		}
		d, err := declare(option)
		if err != nil {
			return
		}
		if err := d.Policy.Validate(); err != nil || d.Floor < 0 || d.Cap < 0 || d.Retention < 0 {
			t.Errorf("%v was taken: %+v, %v", option, d, err)
		}
	})
}
