package interop_test

import (
	"os/exec"
	"strings"
	"testing"
)

// counterpart is something that this folder tests with.
type counterpart struct {
	name    string
	version func(t *testing.T) string
	tested  string
}

func counterparts() []counterpart {
	return []counterpart{
		{"grpc-go", output("go", "list", "-m", "-f", "{{.Version}}", "google.golang.org/grpc"), "the exchanges and the chains"},
		{"@grpc/grpc-js", grpcJS, "the exchanges and the chains"},
		{"Node.js", output("node", "--version"), "runs the hop with @grpc/grpc-js"},
		{"connect-go", output("go", "list", "-m", "-f", "{{.Version}}", "connectrpc.com/connect"), "the exchanges and the chains, and all kinds of calls over its three protocols"},
		{"NATS", output("nats-server", "--version"), "a message with a key that is delivered twice"},
		{"River", output("go", "list", "-C", "../../../examples", "-m", "-f", "{{.Version}}", "github.com/riverqueue/river"), "a job with a key that is tried twice"},
		{"Kafka (kgo)", output("go", "list", "-m", "-f", "{{.Version}}", "github.com/twmb/franz-go"), "a record with a key that is delivered twice, by the client's fake cluster"},
		{"grpc-gateway", output("go", "list", "-C", "../../../examples", "-m", "-f", "{{.Version}}", "github.com/grpc-ecosystem/grpc-gateway/v2"), "a gateway at the edge"},
		{"net/http (Go)", output("go", "env", "GOVERSION"), "the edge, and calls over HTTP/1.1 and HTTP/2"},
		{"go.yaml.in/yaml/v4", output("go", "list", "-C", "../../../interceptors/control", "-m", "-f", "{{.Version}}", "go.yaml.in/yaml/v4"), "policies and modes from a file"},
		{"protoc", output("protoc", "--version"), "descriptor sets, in which hopbound-methods finds undeclared methods"},
		{"nginx", nginxVersion, "as a proxy between two hops, and on both sides of a hop that makes the exchanges"},
		{"grpcio", pythonVersion("import grpc; print(grpc.__version__)"), "the exchanges and the chains"},
		{"Python", pythonVersion("import platform; print(platform.python_version())"), "runs the hop with grpcio"},
	}
}

// The versions of the page are those that the tests have run with.
func TestVersionsOfCounterpartsAreKnown(t *testing.T) {
	t.Parallel()
	table := newTable(t, "versions", 1, "counterpart", "version", "what is tested")
	for _, c := range counterparts() {
		t.Run(c.name, func(t *testing.T) {
			version := c.version(t)
			if version == "" {
				t.Fatal("it has no version")
			}
			table.add(c.name, version, c.tested)
		})
	}
}

// pythonVersion returns what the Python with gRPC prints.
func pythonVersion(script string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		return output(python(t), "-c", script)(t)
	}
}

// output returns the last word that a program prints.
func output(program string, args ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), binary(t, program, program), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", program, err, out)
		}
		fields := strings.Fields(string(out))
		if len(fields) == 0 {
			return ""
		}
		return strings.TrimPrefix(fields[len(fields)-1], "v")
	}
}

// nginxVersion returns the version of nginx, which prints nginx/1.2.3 and perhaps its distribution.
func nginxVersion(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary(t, "nginx", "nginx"), "-v").CombinedOutput()
	if err != nil {
		t.Fatalf("nginx: %v: %s", err, out)
	}
	_, version, _ := strings.Cut(string(out), "nginx/")
	version, _, _ = strings.Cut(strings.TrimSpace(version), " ")
	return version
}

// grpcJS returns the version of the package that the hop in Node.js is installed with.
func grpcJS(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), node(t), "-p", "require('"+hopsFolder+"/node/node_modules/@grpc/grpc-js/package.json').version").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
