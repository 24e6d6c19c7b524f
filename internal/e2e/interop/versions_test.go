package interop_test

import (
	"os/exec"
	"runtime/debug"
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
		{"grpc-go", module("google.golang.org/grpc"), "the exchanges and the chains"},
		{"@grpc/grpc-js", output("node", "-p", "require('"+hopsFolder+"/node/node_modules/@grpc/grpc-js/package.json').version"), "the exchanges and the chains"},
		{"Node.js", output("node", "--version"), "runs the hop with @grpc/grpc-js"},
		{"nginx", nginxVersion, "as a proxy between two hops, and on both sides of a hop that makes the exchanges"},
	}
}

// The versions of the page are those that the tests have run with.
func TestVersionsOfCounterpartsAreKnown(t *testing.T) {
	t.Parallel()
	table := newTable(t, "versions", "counterpart", "version", "what is tested")
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

// module returns the version of a Go module that the test is built with.
func module(path string) func(*testing.T) string {
	return func(*testing.T) string {
		info, _ := debug.ReadBuildInfo()
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
		return ""
	}
}

// output returns the last word that a program prints.
func output(program string, args ...string) func(*testing.T) string {
	return func(t *testing.T) string {
		out, err := exec.Command(binary(t, program, program), args...).CombinedOutput()
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
