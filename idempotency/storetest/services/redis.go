package services

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Redis runs a Redis server until the test ends. Arguments such as "--appendonly", "yes" are added
// to its command line.
func Redis(t TB, args ...string) *Server {
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
			ready: pongs(port),
		}, nil
	})
}

// Sentinel runs a Redis Sentinel until the test ends. It watches a master, and alone decides that
// the master is down and starts a failover.
func Sentinel(t TB, name, master string) *Server {
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
			ready:   pongs(port),
		}, nil
	})
}

// pongs returns a check that succeeds once a Redis server answers a PING. While it loads its data,
// Redis answers with an error.
func pongs(port string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write([]byte("PING\r\n")); err != nil {
			return err
		}
		answer, err := bufio.NewReader(conn).ReadString('\n')
		if err == nil && answer != "+PONG\r\n" {
			err = fmt.Errorf("it answers %q", answer)
		}
		return err
	}
}
