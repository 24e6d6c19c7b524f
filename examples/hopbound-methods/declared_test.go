package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/hopbound/hopbound/idempotency"
	"github.com/hopbound/hopbound/interceptors"
	hopboundv1 "github.com/hopbound/hopbound/proto/hopbound/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	notRetried  = "not retried once a server may have seen them"
	withKey     = "retried only with an idempotency key"
	oneAttempt  = "made once: the policy allows one attempt"
	notHedged   = "made once: a stream of requests is not hedged"
	testService = "hopbound.methods.test.v1.Shop"
)

const (
	retries = `"retryPolicy": {"maxAttempts": 2, "initialBackoff": "0.05s", "maxBackoff": "1s", "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}`
	hedges  = `"hedgingPolicy": {"maxAttempts": 2, "nonFatalStatusCodes": ["UNAVAILABLE"]}`
)

// declaration is what a method declares, and what the command says of it.
type declaration struct {
	name                     string
	clientStream, streams    bool
	level                    descriptorpb.MethodOptions_IdempotencyLevel
	option                   *hopboundv1.MethodPolicy
	config                   string // the rest of the methodConfig of this method
	declared, policy, callIs string
}

func declarations() []declaration {
	const (
		idempotent    = descriptorpb.MethodOptions_IDEMPOTENT
		noSideEffects = descriptorpb.MethodOptions_NO_SIDE_EFFECTS
	)
	keys := func(p *hopboundv1.IdempotencyPolicy) *hopboundv1.MethodPolicy {
		return &hopboundv1.MethodPolicy{Idempotency: p}
	}
	level := func(l hopboundv1.IdempotencyPolicy_Level) *hopboundv1.MethodPolicy {
		return keys(&hopboundv1.IdempotencyPolicy{Level: l.Enum()})
	}
	retry := func(attempts int32) *hopboundv1.MethodPolicy {
		return &hopboundv1.MethodPolicy{Repeat: &hopboundv1.MethodPolicy_Retry{Retry: &hopboundv1.RetryPolicy{MaxAttempts: &attempts}}}
	}
	hedge := func(attempts int32) *hopboundv1.MethodPolicy {
		return &hopboundv1.MethodPolicy{Repeat: &hopboundv1.MethodPolicy_Hedge{Hedge: &hopboundv1.HedgePolicy{MaxAttempts: &attempts}}}
	}
	notIdempotent := hopboundv1.IdempotencyPolicy_LEVEL_NOT_IDEMPOTENT
	return []declaration{
		{name: "Nothing", declared: unknown, policy: none, callIs: notRetried},
		{name: "ServerStreamOfNothing", streams: true, declared: unknown, policy: none, callIs: notRetried},
		{name: "ClientStreamOfNothing", clientStream: true, declared: unknown, policy: none, callIs: notRetried},
		{name: "Idempotent", level: idempotent, declared: "IDEMPOTENT", policy: none, callIs: "retried"},
		{name: "NoSideEffects", level: noSideEffects, declared: "NO_SIDE_EFFECTS", policy: none, callIs: "retried"},
		{name: "StreamsOfReads", level: noSideEffects, streams: true, clientStream: true, declared: "NO_SIDE_EFFECTS", policy: none, callIs: "retried"},
		{name: "TimeoutAlone", option: &hopboundv1.MethodPolicy{Timeout: durationpb.New(1e9)}, declared: unknown, policy: none, callIs: notRetried},
		{name: "OptionIdempotent", option: level(hopboundv1.IdempotencyPolicy_LEVEL_IDEMPOTENT), declared: "IDEMPOTENT", policy: none, callIs: "retried"},
		{name: "OptionNoSideEffects", option: level(hopboundv1.IdempotencyPolicy_LEVEL_NO_SIDE_EFFECTS), declared: "NO_SIDE_EFFECTS", policy: none, callIs: "retried"},
		{name: "OptionTakesPrecedence", level: idempotent, option: level(notIdempotent), declared: "NOT_IDEMPOTENT", policy: none, callIs: withKey},
		{name: "StreamNotIdempotent", streams: true, option: level(notIdempotent), declared: "NOT_IDEMPOTENT", policy: none, callIs: notRetried},
		{name: "OptionUnspecified", level: idempotent, option: level(hopboundv1.IdempotencyPolicy_LEVEL_UNSPECIFIED), declared: "IDEMPOTENT", policy: none, callIs: "retried"},
		{name: "OptionRetry", option: retry(2), declared: unknown, policy: "retry (proto option)", callIs: "retried"},
		{name: "OptionRetryOnce", option: retry(1), declared: unknown, policy: "retry (proto option)", callIs: oneAttempt},
		{name: "OptionHedge", option: hedge(2), declared: unknown, policy: "hedge (proto option)", callIs: "hedged"},
		{name: "OptionHedgeOnce", option: hedge(1), declared: unknown, policy: "hedge (proto option)", callIs: oneAttempt},
		{name: "OptionHedgeClientStream", clientStream: true, option: hedge(2), declared: unknown, policy: "hedge (proto option)", callIs: notHedged},
		{name: "KeyRequired", option: keys(&hopboundv1.IdempotencyPolicy{KeyRequired: new(true)}), declared: unknown, policy: "key (proto option)", callIs: "retried with the idempotency key that each call has"},
		{name: "KeyField", option: keys(&hopboundv1.IdempotencyPolicy{KeyField: new("value")}), declared: unknown, policy: "key (proto option)", callIs: withKey},
		{name: "Retention", option: keys(&hopboundv1.IdempotencyPolicy{Retention: durationpb.New(1e9)}), declared: unknown, policy: "key (proto option)", callIs: withKey},
		{name: "ConfigRetry", config: retries, declared: unknown, policy: "retry (service config)", callIs: "retried"},
		{name: "ConfigHedge", config: hedges, declared: unknown, policy: "hedge (service config)", callIs: "hedged"},
		{name: "ConfigHedgeStream", streams: true, config: hedges, declared: unknown, policy: "hedge (service config)", callIs: "hedged"},
		{name: "ConfigHedgeClientStream", clientStream: true, config: hedges, declared: unknown, policy: "hedge (service config)", callIs: notHedged},
		{name: "ConfigTimeout", config: `"timeout": "5s"`, declared: unknown, policy: none, callIs: notRetried},
		{name: "ConfigNull", config: `"retryPolicy": null`, declared: unknown, policy: none, callIs: notRetried},
		{name: "ConfigBeforeOption", option: retry(1), config: retries, declared: unknown, policy: "retry (service config)", callIs: "retried"},
		{name: "ConfigOfNotIdempotent", option: level(notIdempotent), config: retries, declared: "NOT_IDEMPOTENT", policy: "retry (service config)", callIs: withKey},
	}
}

// serviceConfig returns the service config of the declarations.
func serviceConfig(t *testing.T) string {
	t.Helper()
	var configs []string
	for _, d := range declarations() {
		if d.config != "" {
			configs = append(configs, fmt.Sprintf(`{"name": [{"service": %q, "method": %q}], %s}`, testService, d.name, d.config))
		}
	}
	return `{"methodConfig": [` + strings.Join(configs, ", ") + `]}`
}

// file returns the file of the declarations.
func file() *descriptorpb.FileDescriptorProto {
	s := &descriptorpb.ServiceDescriptorProto{Name: new("Shop")}
	for _, d := range declarations() {
		options := &descriptorpb.MethodOptions{}
		if d.level != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN {
			options.IdempotencyLevel = d.level.Enum()
		}
		if d.option != nil {
			proto.SetExtension(options, hopboundv1.E_Method, d.option)
		}
		s.Method = append(s.Method, &descriptorpb.MethodDescriptorProto{
			Name: new(d.name), ClientStreaming: &d.clientStream, ServerStreaming: &d.streams, Options: options,
			InputType: new(".google.protobuf.StringValue"), OutputType: new(".google.protobuf.StringValue"),
		})
	}
	return &descriptorpb.FileDescriptorProto{
		Name: new("hopbound/methods/test/v1/shop.proto"), Package: new("hopbound.methods.test.v1"), Syntax: new("proto3"),
		Dependency: []string{"google/protobuf/wrappers.proto", "hopbound/v1/policy.proto"}, Service: []*descriptorpb.ServiceDescriptorProto{s},
	}
}

func TestDeclarationsAreRecognized(t *testing.T) {
	t.Parallel()
	r := invoke(t, "-all", "-json", "-policy", write(t, "config.json", []byte(serviceConfig(t))), writeSet(t, file()))
	r.want(t, exitUndeclared)
	read := r.report(t)
	if read.Undeclared != 6 || read.Total != len(declarations()) || len(read.Methods) != read.Total {
		t.Errorf("%d of %d are undeclared, %d are listed", read.Undeclared, read.Total, len(read.Methods))
	}
	kinds := map[bool]map[bool]string{false: {false: "unary", true: "server stream"}, true: {false: "client stream", true: "bidi stream"}}
	for i, d := range declarations() {
		want := method{
			Method: "/" + testService + "/" + d.name, Kind: kinds[d.clientStream][d.streams], Declared: d.declared, Policy: d.policy,
			CallsAre: d.callIs, Undeclared: d.declared == unknown && d.policy == none,
		}
		if read.Methods[i] != want {
			t.Errorf("%+v, want %+v", read.Methods[i], want)
		}
	}
}

func TestMostSpecificMethodConfigApplies(t *testing.T) {
	t.Parallel()
	set := writeSet(t, undeclared("Orders", "Get", "Place"), undeclared("Carts", "Get"))
	for _, tc := range []struct {
		config string
		want   [3]string // of Orders/Get, Orders/Place and Carts/Get
	}{
		{`{}`, [3]string{none, none, none}},
		{`{"methodConfig": [{"name": [{}], ` + retries + `}]}`, [3]string{"retry (service config)", "retry (service config)", "retry (service config)"}},
		{`{"methodConfig": [{"name": [{"service": "shop.v1.Orders"}], ` + hedges + `}]}`, [3]string{"hedge (service config)", "hedge (service config)", none}},
		{`{"methodConfig": [{"name": [{"service": "shop.v1.Orders", "method": null}, {}], ` + retries + `},
			{"name": [{"service": "shop.v1.Orders", "method": "Place"}, {"service": "shop.v1.Carts"}], "timeout": "1s"}]}`, [3]string{"retry (service config)", none, none}},
		{`{"methodConfig": [{"name": [], ` + retries + `}]}`, [3]string{none, none, none}},
	} {
		r := invoke(t, "-all", "-json", "-policy", write(t, "config.json", []byte(tc.config)), set)
		read := r.report(t)
		if got := [3]string{read.Methods[0].Policy, read.Methods[1].Policy, read.Methods[2].Policy}; got != tc.want {
			t.Errorf("%s: %q, want %q", tc.config, got, tc.want)
		}
		if wantCode := min(read.Undeclared, 1); r.code != wantCode {
			t.Errorf("%s: exit code %d", tc.config, r.code)
		}
	}
}

// Each method is called by a client with Hopbound, while its server is unavailable.
func TestCallsAreMadeAsTheCommandSays(t *testing.T) {
	t.Parallel()
	if _, err := protoregistry.GlobalFiles.FindFileByPath(file().GetName()); err != nil { // with -count, it is there
		descriptor, err := protodesc.NewFile(file(), protoregistry.GlobalFiles)
		if err == nil {
			err = protoregistry.GlobalFiles.RegisterFile(descriptor) // where Hopbound looks for options
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	config := serviceConfig(t)
	for _, d := range declarations() {
		t.Run(d.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, key := range []bool{false, true} {
					if key && (d.clientStream || d.streams) {
						continue // a server replays no stream
					}
					want := !strings.HasPrefix(d.callIs, "not ") && !strings.HasPrefix(d.callIs, "made once") && d.callIs != withKey
					if key {
						want = d.callIs != oneAttempt // a key makes each call safe to retry
					}
					if n := attempts(t, config, &d, key); (n > 1) != want {
						t.Errorf("%d attempts (with a key: %t) of calls that are %s", n, key, d.callIs)
					}
				}
			})
		})
	}
}

// attempts makes a call that fails with UNAVAILABLE, and returns the number of attempts.
func attempts(t *testing.T, config string, d *declaration, key bool) int64 {
	t.Helper()
	client, err := interceptors.NewClient(interceptors.WithServiceConfig(config))
	if err != nil {
		t.Fatal(err)
	}
	var seen atomic.Int64
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
		seen.Add(1)
		return status.Error(codes.Unavailable, "down")
	}))
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///shop", append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if key {
		ctx = idempotency.WithKey(ctx, idempotency.NewKey())
	}
	if err := call(ctx, conn, d); status.Code(err) != codes.Unavailable {
		t.Errorf("the call returned %v", err)
	}
	return seen.Load()
}

// call calls a method, and sends one message.
func call(ctx context.Context, conn *grpc.ClientConn, d *declaration) error {
	fullMethod := "/" + testService + "/" + d.name
	if !d.clientStream && !d.streams {
		return conn.Invoke(ctx, fullMethod, newMessage(), newMessage())
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: d.clientStream, ServerStreams: d.streams}, fullMethod)
	if err != nil {
		return err
	}
	if err := s.SendMsg(newMessage()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	return s.RecvMsg(newMessage())
}

func newMessage() *wrapperspb.StringValue { return wrapperspb.String("") }
