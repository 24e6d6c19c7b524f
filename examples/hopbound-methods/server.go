package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

const (
	reflectionV1 = reflection.ServerReflection_ServerReflectionInfo_FullMethodName
	// reflectionV1Alpha is the older version. Its messages have the same encoding.
	reflectionV1Alpha = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

	maxReply = 64 << 20 // bytes; a reply may contain a file and all its imports
)

// readServer returns the services of the server, by server reflection.
func (o *options) readServer(ctx context.Context) ([]service, error) {
	creds, err := o.credentials()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient(o.server, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)))
	if err != nil {
		return nil, fmt.Errorf("-server %s: %w", o.server, err)
	}
	defer conn.Close()
	services, err := reflectServices(ctx, conn, reflectionV1)
	if status.Code(err) == codes.Unimplemented {
		services, err = reflectServices(ctx, conn, reflectionV1Alpha)
	}
	switch s := status.Convert(err); s.Code() {
	case codes.OK:
		return services, nil
	case codes.Unimplemented:
		return nil, fmt.Errorf("%s has no server reflection (in Go, reflection.Register adds it): give a descriptor set instead", o.server)
	case codes.DeadlineExceeded:
		return nil, fmt.Errorf("%s did not answer within %v (see -timeout)", o.server, o.timeout)
	case codes.Unavailable:
		hint := ""
		if strings.Contains(s.Message(), "first record does not look like a TLS handshake") {
			hint = " (use -plaintext if the server has no TLS)"
		}
		return nil, fmt.Errorf("cannot connect to %s%s: %s", o.server, hint, s.Message())
	default:
		return nil, fmt.Errorf("server reflection of %s: %w", o.server, err)
	}
}

func (o *options) credentials() (credentials.TransportCredentials, error) {
	switch {
	case o.plaintext && o.ca != "":
		return nil, errors.New("-ca cannot be used with -plaintext")
	case o.plaintext:
		return insecure.NewCredentials(), nil
	case o.ca == "":
		return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12}), nil
	}
	text, err := os.ReadFile(o.ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("-ca: %s has no certificate in PEM", o.ca)
	}
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}), nil
}

// reflectServices returns the services that a server lists, by the version of server reflection with the
// given method.
func reflectServices(ctx context.Context, conn *grpc.ClientConn, method string) ([]service, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return nil, err
	}
	reply, err := exchange(stream, &reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return nil, err
	}
	var services []service
	found := map[string]service{} // in all files so far, by full name
	for _, listed := range reply.GetListServicesResponse().GetService() {
		name := listed.GetName()
		reply, err := exchange(stream, &reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}})
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", name, err)
		}
		for _, raw := range reply.GetFileDescriptorResponse().GetFileDescriptorProto() {
			var file descriptorpb.FileDescriptorProto
			if err := proto.Unmarshal(raw, &file); err != nil {
				return nil, fmt.Errorf("service %s: invalid descriptor: %w", name, err)
			}
			for _, s := range servicesOf(&file) {
				found[s.name] = s
			}
		}
		s, ok := found[name]
		if !ok {
			return nil, fmt.Errorf("service %s: the server sent no file that defines it", name)
		}
		services = append(services, s)
	}
	return services, nil
}

// exchange sends a request and returns its reply.
func exchange(stream grpc.ClientStream, request *reflection.ServerReflectionRequest) (*reflection.ServerReflectionResponse, error) {
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) { // after io.EOF, RecvMsg returns the cause
		return nil, err
	}
	reply := new(reflection.ServerReflectionResponse)
	if err := stream.RecvMsg(reply); err != nil {
		return nil, err
	}
	if failure := reply.GetErrorResponse(); failure != nil {
		return nil, errors.New(failure.GetErrorMessage())
	}
	return reply, nil
}
