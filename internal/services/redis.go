package services

import (
	"os/exec"
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
