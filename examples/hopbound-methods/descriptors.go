package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// service is a service and its methods.
type service struct {
	name    string // full name
	methods []*descriptorpb.MethodDescriptorProto
}

// ownPackages are the packages of the services that gRPC itself provides, such as health and reflection.
var ownPackages = []string{"grpc.channelz.v1", "grpc.health.v1", "grpc.reflection.v1", "grpc.reflection.v1alpha"}

func (s *service) ownedByGRPC() bool {
	return slices.Contains(ownPackages, s.name[:max(0, strings.LastIndex(s.name, "."))])
}

// servicesOf returns the services of a file. The file's imports are not needed for that.
func servicesOf(file *descriptorpb.FileDescriptorProto) []service {
	services := make([]service, 0, len(file.GetService()))
	for _, s := range file.GetService() {
		name := strings.TrimPrefix(file.GetPackage()+"."+s.GetName(), ".")
		services = append(services, service{name, s.GetMethod()})
	}
	return services
}

// readFiles returns the services of descriptor sets. A service that is in several sets is returned once.
func readFiles(names []string, stdin io.Reader) ([]service, error) {
	var services []service
	seen := map[string]bool{}
	for _, name := range names {
		read := os.ReadFile
		if name == "-" {
			name, read = "standard input", func(string) ([]byte, error) { return io.ReadAll(stdin) }
		}
		content, err := read(name)
		if err != nil {
			return nil, err
		}
		set, err := parseSet(content)
		if err != nil {
			return nil, fmt.Errorf("%s is not a descriptor set, as protoc --descriptor_set_out and buf build -o write it: %w", name, err)
		}
		found := 0
		for _, file := range set.GetFile() {
			for _, s := range servicesOf(file) {
				found++
				if !seen[s.name] {
					seen[s.name] = true
					services = append(services, s)
				}
			}
		}
		if found == 0 {
			return nil, fmt.Errorf("%s has no services", name)
		}
	}
	return services, nil
}

// parseSet parses a descriptor set, in binary or JSON.
func parseSet(content []byte) (*descriptorpb.FileDescriptorSet, error) {
	var set descriptorpb.FileDescriptorSet
	err := proto.Unmarshal(content, &set)
	isBinary := err == nil && len(set.GetFile()) > 0 // which may begin like JSON
	if !isBinary && bytes.HasPrefix(bytes.TrimSpace(content), []byte("{")) {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(content, &set)
	}
	if err != nil {
		return nil, err
	}
	for _, file := range set.GetFile() {
		if file.GetName() == "" { // protoc and buf always write it
			return nil, errors.New("it contains a file without a name")
		}
	}
	if len(set.GetFile()) == 0 {
		return nil, errors.New("it contains no file")
	}
	return &set, nil
}
