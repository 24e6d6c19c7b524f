package main

import (
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hopbound/hopbound/examples/internal/services"
	quickstartv1 "github.com/hopbound/hopbound/examples/quickstart/proto/hopbound/examples/quickstart/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// prices registers a service whose two methods are declared, and gRPC's own health service.
func prices(s *grpc.Server) {
	quickstartv1.RegisterPriceServiceServer(s, quickstartv1.UnimplementedPriceServiceServer{})
	healthpb.RegisterHealthServer(s, health.NewServer())
}

// serve runs a server without TLS, and returns the flags that name it.
func serve(t *testing.T, register func(s *grpc.Server)) []string {
	t.Helper()
	return []string{"-plaintext", "-server", services.GRPC(t, register)}
}

func TestServerIsReadByReflectionOfEachVersion(t *testing.T) {
	t.Parallel()
	for version, register := range map[string]func(s *grpc.Server){
		"both": func(s *grpc.Server) { reflection.Register(s) },
		"v1":   func(s *grpc.Server) { reflection.RegisterV1(s) },
		"v1alpha": func(s *grpc.Server) {
			reflectionv1alpha.RegisterServerReflectionServer(s, reflection.NewServer(reflection.ServerOptions{Services: s}))
		},
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			args := serve(t, func(s *grpc.Server) {
				prices(s)
				register(s)
			})
			r := invoke(t, args...)
			r.want(t, 0)
			if r.out != "0 of 2 methods are undeclared.\n" {
				t.Error(r.out)
			}
			invoke(t, append(args, "-all")...).want(t, 0, "NO_SIDE_EFFECTS  retry (proto option)  retried\n", "NO_SIDE_EFFECTS  hedge (proto option)  hedged\n",
				"/grpc.health.v1.Health/Check ", "0 of 2 methods are undeclared.\n")
		})
	}
}

func TestServerOfGRPCsOwnServicesHasNoMethods(t *testing.T) {
	t.Parallel()
	args := serve(t, func(s *grpc.Server) { reflection.Register(s) })
	invoke(t, args...).want(t, exitFailed, "there are no methods other than those of gRPC's own services")
	invoke(t, append(args, "-all")...).want(t, 0, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "0 of 0 methods")
}

func TestMethodsOfABoutiqueAreAllUndeclared(t *testing.T) {
	t.Parallel()
	shop := boutique(t)
	file, err := protodesc.NewFile(shop, nil)
	if err != nil {
		t.Fatal(err)
	}
	files := new(protoregistry.Files)
	if err := files.RegisterFile(file); err != nil {
		t.Fatal(err)
	}
	args := serve(t, func(s *grpc.Server) {
		for i := range file.Services().Len() {
			s.RegisterService(&grpc.ServiceDesc{ServiceName: string(file.Services().Get(i).FullName()), HandlerType: (*any)(nil)}, struct{}{})
		}
		reflectionv1.RegisterServerReflectionServer(s, reflection.NewServerV1(reflection.ServerOptions{Services: withoutReflection{s}, DescriptorResolver: files}))
	})
	for _, args := range [][]string{{writeSet(t, shop)}, args} {
		r := invoke(t, append(args, "-suggest", "-json")...)
		r.want(t, exitUndeclared)
		read := r.report(t)
		if read.Total != 15 || read.Undeclared != 15 {
			t.Errorf("%d of %d are undeclared", read.Undeclared, read.Total)
		}
		perService, reads := map[string]int{}, 0
		for _, m := range read.Methods {
			perService[strings.Split(strings.TrimPrefix(m.Method, "/boutique.v1."), "/")[0]]++
			if m.Suggestion != "" {
				reads++
			}
		}
		if len(perService) != 9 || perService["CartService"] != 3 || perService["CheckoutService"] != 1 || reads != 8 {
			t.Errorf("%d services: %v; %d suggestions", len(perService), perService, reads)
		}
		invoke(t, args...).want(t, exitUndeclared, "15 of 15 methods are undeclared: their calls are not retried once a server may have seen them.")
	}
}

// withoutReflection are the services of a server, without server reflection.
type withoutReflection struct{ *grpc.Server }

func (s withoutReflection) GetServiceInfo() map[string]grpc.ServiceInfo {
	all := s.Server.GetServiceInfo()
	delete(all, reflectionv1.ServerReflection_ServiceDesc.ServiceName)
	return all
}

func TestServerWithTLSIsTrustedByItsAuthority(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(nil) // for its certificate
	web.Close()
	creds := credentials.NewTLS(&tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12})
	addr := services.GRPC(t, func(s *grpc.Server) {
		prices(s)
		reflection.Register(s)
	}, grpc.Creds(creds))
	ca := write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}))
	invoke(t, "-server", addr, "-ca", ca).want(t, 0, "0 of 2")
	invoke(t, "-server", addr).want(t, exitFailed, "cannot connect to "+addr+": ", "certificate")
	invoke(t, "-server", addr, "-plaintext").want(t, exitFailed, "cannot connect to "+addr+": ")
}

// scripted is a server reflection that answers from a script, in order, and then ends the stream.
type scripted struct {
	reflectionv1.UnimplementedServerReflectionServer
	replies []*reflectionv1.ServerReflectionResponse
	err     error // the end
}

func (s scripted) ServerReflectionInfo(stream reflectionv1.ServerReflection_ServerReflectionInfoServer) error {
	for _, reply := range s.replies {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	return s.err
}

func listing(names ...string) *reflectionv1.ServerReflectionResponse {
	list := &reflectionv1.ListServiceResponse{}
	for _, name := range names {
		list.Service = append(list.Service, &reflectionv1.ServiceResponse{Name: name})
	}
	return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ListServicesResponse{ListServicesResponse: list}}
}

func defining(raw ...[]byte) *reflectionv1.ServerReflectionResponse {
	return &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_FileDescriptorResponse{
		FileDescriptorResponse: &reflectionv1.FileDescriptorResponse{FileDescriptorProto: raw},
	}}
}

func encoded(t *testing.T, file *descriptorpb.FileDescriptorProto) []byte {
	t.Helper()
	raw, err := proto.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestFailureOfAServerIsExplainedInOneLine(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	unknown := &reflectionv1.ServerReflectionResponse{MessageResponse: &reflectionv1.ServerReflectionResponse_ErrorResponse{
		ErrorResponse: &reflectionv1.ErrorResponse{ErrorCode: int32(codes.NotFound), ErrorMessage: "symbol not found:\x1b[2J\nshop"},
	}}
	with := func(s scripted) []string {
		return serve(t, func(server *grpc.Server) { reflectionv1.RegisterServerReflectionServer(server, s) })
	}
	type replies = []*reflectionv1.ServerReflectionResponse
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"nobody listens":        {[]string{"-plaintext", "-server", closed.Addr().String()}, "cannot connect to " + closed.Addr().String() + ": "},
		"no TLS":                {serve(t, prices)[1:], " (use -plaintext if the server has no TLS): "},
		"no reflection":         {serve(t, prices), " has no server reflection (in Go, reflection.Register adds it): give a descriptor set instead"},
		"no services":           {with(scripted{replies: replies{listing()}}), "there are no methods"},
		"not permitted":         {with(scripted{err: status.Error(codes.PermissionDenied, "not you")}), "code = PermissionDenied desc = not you"},
		"no list":               {with(scripted{}), "server reflection of 127.0.0.1"},
		"ends early":            {with(scripted{replies: replies{listing("shop.v1.Orders")}}), "service shop.v1.Orders: "},
		"unknown service":       {with(scripted{replies: replies{listing("shop.v1.Orders"), unknown}}), "service shop.v1.Orders: symbol not found:\ufffd[2J; shop\n"},
		"invalid descriptor":    {with(scripted{replies: replies{listing("shop.v1.Orders"), defining([]byte("text"))}}), "service shop.v1.Orders: invalid descriptor: "},
		"another service":       {with(scripted{replies: replies{listing("shop.v1.Orders"), defining(encoded(t, undeclared("Carts", "Get")))}}), "service shop.v1.Orders: the server sent no file that defines it"},
		"service without calls": {with(scripted{replies: replies{listing("shop.v1.Orders"), defining(encoded(t, undeclared("Orders")))}}), "there are no methods"},
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

func TestServerThatDoesNotAnswerIsGivenUp(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // it accepts connections, and nobody reads from them
	invoke(t, "-plaintext", "-timeout=50ms", "-server", listener.Addr().String()).want(t, exitFailed, " did not answer within 50ms (see -timeout)")
}

// What a server sends may be anything.
func TestNothingPrintedControlsATerminal(t *testing.T) {
	t.Parallel()
	args := serve(t, func(s *grpc.Server) {
		reflectionv1.RegisterServerReflectionServer(s, scripted{replies: []*reflectionv1.ServerReflectionResponse{
			listing("shop.v1.Orders"), defining(encoded(t, undeclared("Orders", "Get\x1b[2J\n\tx"))),
		}})
	})
	invoke(t, args...).want(t, exitUndeclared, "/shop.v1.Orders/Get\ufffd[2J\ufffd\ufffdx  unary")
}
