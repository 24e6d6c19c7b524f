package interop_test

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const hopsFolder = "../../../examples/hops"

// startNode starts the hop for Node.js until the test ends.
func startNode(t testing.TB, s settings) string {
	t.Helper()
	return start(t, s, node(t), "node/server.js")
}

// node returns Node.js, for which the packages of the hop are installed.
func node(t testing.TB) string {
	t.Helper()
	path := binary(t, "node", "nodejs")
	if _, err := os.Stat(filepath.Join(hopsFolder, "node", "node_modules", "@grpc", "grpc-js")); err != nil {
		missing(t, "@grpc/grpc-js is not installed; run: npm ci --prefix examples/hops/node")
	}
	return path
}

// startPython starts the hop for Python until the test ends.
func startPython(t testing.TB, s settings) string {
	t.Helper()
	return start(t, s, python(t), "python/server.py")
}

// python returns a Python that has gRPC.
func python(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"/usr/bin/python3", "python3"} { // Debian's packages are for the first
		if path, err := exec.LookPath(name); err == nil && exec.CommandContext(t.Context(), path, "-c", "import grpc").Run() == nil {
			return path
		}
	}
	missing(t, "no python3 with gRPC is installed; on Debian: apt-get install python3-grpcio")
	return ""
}

// binary returns the path of a program, which is in a package of Debian.
func binary(t testing.TB, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name) // where Debian has servers, and users have no PATH
	}
	if err != nil {
		missing(t, name+" is not installed; on Debian: apt-get install "+pkg)
	}
	return path
}

// missing skips the test, or fails it where counterparts are required.
func missing(t testing.TB, message string) {
	t.Helper()
	if os.Getenv("HOPBOUND_REQUIRE_SERVICES") == "1" {
		t.Fatal(message)
	}
	t.Skip(message)
}

// start runs a hop until the test ends. The hop prints its address, and ends when its input does.
func start(t testing.TB, s settings, program, file string) (address string) {
	t.Helper()
	readSources(t, file)
	cmd := exec.Command(program, filepath.Join(hopsFolder, file)) //nolint:noctx // it must end by itself
	cmd.Env = append(s.environment(), "HOP_LISTEN=127.0.0.1:0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	output := bufio.NewReader(stdout)
	t.Cleanup(func() {
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, output)
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			t.Errorf("%s ended with %v and printed: %s", file, err, stderr.String())
		}
	})
	line, err := output.ReadString('\n')
	if err != nil {
		t.Fatalf("%s printed no address: %v", file, err)
	}
	return strings.TrimSpace(line)
}

// readSources reads the files beside a file of a hop, so that go test runs the test again when one of them has changed.
func readSources(t testing.TB, file string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(hopsFolder, filepath.Dir(file), "*.*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files beside %s, error %v", len(files), file, err)
	}
	for _, name := range files {
		if _, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
}
