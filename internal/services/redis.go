package services

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Redis runs a Redis server until the test ends, with further arguments for it,
// such as "--appendonly", "yes".
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	path, err := find("redis-server")
	if err != nil {
		missing(t, err.Error())
	}
	return run(t, func(dir, port string) (*Server, error) {
		return &Server{
			command: func() *exec.Cmd {
				return exec.Command(path, append([]string{ //nolint:gosec,noctx // arguments of tests
					"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--save", "", "--appendonly", "no",
				}, args...)...)
			},
			ready: dials(port),
		}, nil
	})
}

// Sentinel runs a Redis Sentinel that watches a master, and by itself decides
// that it is down and fails over, until the test ends.
func Sentinel(t testing.TB, name, master string) *Server {
	t.Helper()
	path, err := find("redis-server")
	if err != nil {
		missing(t, err.Error())
	}
	return run(t, func(dir, port string) (*Server, error) {
		host, masterPort, err := net.SplitHostPort(master)
		if err != nil {
			return nil, err
		}
		config := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nsentinel monitor %s %s %s 1\nsentinel down-after-milliseconds %s 500\nsentinel failover-timeout %s 5000\n",
			port, dir, name, host, masterPort, name, name)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return &Server{
			command: func() *exec.Cmd { return exec.Command(path, config, "--sentinel") }, //nolint:noctx // arguments of tests
			ready:   dials(port),
		}, nil
	})
}
