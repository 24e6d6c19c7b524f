package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Process is an instance of a service. One goroutine uses it at a time.
type Process struct {
	Role     string
	Instance int
	Address  string // at which it listens
	Release  int    // of the program that it runs, from 1

	program, config, folder string
	cmd                     *exec.Cmd
	log                     *os.File
	done                    chan error
}

// String returns the name of the instance, such as "gateway 1".
func (p *Process) String() string { return fmt.Sprintf("%s %d", p.Role, p.Instance+1) }

// Start starts the process, and returns when it listens.
func (p *Process) Start(ctx context.Context) error {
	var err error
	path := filepath.Join(p.folder, fmt.Sprintf("%s-%d.log", p.Role, p.Instance))
	if p.log, err = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	//nolint:gosec,noctx // it is this program; signals end it
	p.cmd = exec.Command(p.program, "serve", "-config", p.config, "-role", p.Role, "-instance", strconv.Itoa(p.Instance), "-release", strconv.Itoa(p.Release))
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	dieWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.done = make(chan error, 1)
	go func(cmd *exec.Cmd, done chan error) { done <- cmd.Wait() }(p.cmd, p.done)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.Address)
		if err == nil {
			return conn.Close()
		}
		select {
		case err := <-p.done:
			p.done <- err
			text, _ := os.ReadFile(path)
			return fmt.Errorf("%s does not start: %w\n%s", p, err, bytes.TrimSpace(text))
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen: %w", p, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// PID returns the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal, such as SIGSTOP.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Kill kills the process.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done //nolint:errcheck // it was killed
	_ = p.log.Close()
	p.cmd = nil
}

// Stop lets the process drain. It returns an error if the process does not end in time, or ends with an error.
func (p *Process) Stop() error {
	if p.cmd == nil {
		return nil
	}
	p.Signal(syscall.SIGCONT)
	p.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(2*startTimeout, func() { p.Signal(syscall.SIGKILL) })
	defer timer.Stop()
	err := <-p.done
	err = errors.Join(err, p.log.Close())
	p.cmd = nil
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}

// Restart starts the process again after it has drained.
func (p *Process) Restart(ctx context.Context) error { return errors.Join(p.Stop(), p.Start(ctx)) }
