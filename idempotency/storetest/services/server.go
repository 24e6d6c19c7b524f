package services

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startTimeout bounds how long a server may take to start, and to stop.
const startTimeout = 30 * time.Second

// TB is the part of [testing.TB] that the package uses, so that benchmarks that are commands can
// use it too.
type TB interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(f func())
}

// Server is a server that belongs to one test. It is not safe for concurrent use.
type Server struct {
	// Addr is the address at which the server listens. It stays the same when
	// the server is restarted.
	Addr string

	t       TB
	command func() *exec.Cmd
	ready   func(ctx context.Context) error
	process *exec.Cmd
	log     *os.File
}

// Start starts the server again after Kill or Stop. It retries for 30 seconds, because files and
// processes that a killed server has left behind may prevent a start for a while.
func (s *Server) Start() {
	s.t.Helper()
	until := time.Now().Add(startTimeout)
	err := s.start()
	for err != nil && time.Now().Before(until) {
		s.wait()
		time.Sleep(20 * time.Millisecond)
		err = s.start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) start() error {
	cmd := s.command()
	cmd.Stdout, cmd.Stderr = s.log, s.log
	dieWithParent(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.process = cmd
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := s.ready(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || exited(cmd) {
			s.Signal(syscall.SIGKILL)
			text, _ := os.ReadFile(s.log.Name())
			return fmt.Errorf("%s does not start: %w\n%s", cmd.Path, err, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// exited reports whether a process that was not waited for yet has ended.
func exited(cmd *exec.Cmd) bool {
	var info syscall.WaitStatus
	pid, err := syscall.Wait4(cmd.Process.Pid, &info, syscall.WNOHANG, nil)
	return pid != 0 || err != nil
}

// Kill kills the server, as a crash does, and returns when nothing listens at its address. The
// children of a killed postmaster hold its socket until they notice its death.
func (s *Server) Kill() {
	s.t.Helper()
	s.Signal(syscall.SIGKILL)
	s.wait()
	for until := time.Now().Add(startTimeout); s.listens(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			s.t.Fatalf("%s still listens %v after it was killed", s.Addr, startTimeout)
		}
	}
}

// listens reports whether anybody listens at the server's address.
func (s *Server) listens() bool {
	conn, err := net.DialTimeout("tcp", s.Addr, startTimeout) //nolint:noctx // it is bounded
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// Stop shuts the server down.
func (s *Server) Stop() {
	s.Signal(syscall.SIGINT)
	s.wait()
}

// Signal sends a signal, such as SIGSTOP.
func (s *Server) Signal(signal syscall.Signal) {
	if s.process != nil {
		_ = s.process.Process.Signal(signal)
	}
}

// SignalAll sends a signal to the server and to the processes that it has started.
func (s *Server) SignalAll(signal syscall.Signal) {
	if s.process == nil {
		return
	}
	pids := []int{s.process.Process.Pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(raw), ") ") // its state, and then its parent
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(pids[0]) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, signal)
	}
}

func (s *Server) wait() {
	if s.process == nil {
		return
	}
	timer := time.AfterFunc(startTimeout, func() { s.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	_ = s.process.Wait()
	s.process = nil
}

// run starts a server with a new folder and port, until the test ends.
func run(t TB, server func(dir, port string) (*Server, error)) *Server {
	t.Helper()
	const tries = 10 // another process may take the port, or it may be too high for a cluster's second port
	var err error
	for range tries {
		var s *Server
		if s, err = tryRun(t, server); err == nil {
			return s
		}
	}
	t.Fatal(err)
	return nil
}

func tryRun(t TB, server func(dir, port string) (*Server, error)) (*Server, error) {
	t.Helper()
	dir, err := os.MkdirTemp("", "hopbound")
	if err != nil {
		return nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	port, err := freePort()
	if err != nil {
		remove()
		return nil, err
	}
	s, err := server(dir, port)
	if err != nil {
		remove()
		return nil, err
	}
	s.t, s.Addr = t, net.JoinHostPort("127.0.0.1", port)
	if s.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		remove()
		return nil, err
	}
	if err := s.start(); err != nil {
		s.wait()
		_ = s.log.Close()
		remove()
		return nil, err
	}
	t.Cleanup(func() {
		s.Signal(syscall.SIGCONT)
		s.Stop()
		_ = s.log.Close()
		remove()
	})
	return s, nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it takes no time
	if err != nil {
		return "", err
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// missing ends a test because something is not installed.
func missing(t TB, what string) {
	t.Helper()
	if os.Getenv("HOPBOUND_REQUIRE_SERVICES") == "1" {
		t.Fatalf("%s, and HOPBOUND_REQUIRE_SERVICES is set", what)
	}
	t.Skipf("%s: install it to run this test", what)
}

// find returns the path of a binary, from PATH or the patterns, or an error.
func find(name string, patterns ...string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, pattern := range patterns {
		if all, _ := filepath.Glob(pattern); len(all) > 0 {
			return all[len(all)-1], nil
		}
	}
	return "", errors.New("there is no " + name)
}
