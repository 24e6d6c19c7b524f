package services

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// Postgres runs a PostgreSQL server until the test ends, with further settings
// for it, such as "fsync=on", which is off otherwise. Its databases are made
// anew.
func Postgres(t TB, settings ...string) *Server {
	t.Helper()
	postgres, err := find("postgres", "/usr/lib/postgresql/*/bin/postgres")
	if err == nil {
		postgres, err = filepath.EvalSymlinks(postgres) // initdb is beside it
	}
	if err != nil {
		missing(t, err.Error())
	}
	as, err := credential()
	if err != nil {
		missing(t, err.Error())
	}
	return run(t, func(dir, port string) (*Server, error) {
		data := filepath.Join(dir, "data")
		command := func(path string, args ...string) *exec.Cmd {
			cmd := exec.Command(path, args...) //nolint:noctx // it is stopped by signals
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
			return cmd
		}
		if as != nil {
			if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
				return nil, err
			}
		}
		initdb := command(filepath.Join(filepath.Dir(postgres), "initdb"),
			"-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8")
		if out, err := initdb.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("initdb: %w\n%s", err, out)
		}
		args := []string{"-D", data, "-p", port, "-k", dir, "-h", "127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200"}
		for _, s := range settings {
			args = append(args, "-c", s)
		}
		return &Server{
			command: func() *exec.Cmd { return command(postgres, args...) },
			ready:   answers(port),
		}, nil
	})
}

// URL returns how to connect to the server's database, if it is a PostgreSQL
// server.
func (s *Server) URL() string { return "postgres://postgres@" + s.Addr + "/postgres?sslmode=disable" }

// credential returns whom to run PostgreSQL as, which refuses root: the user
// postgres if this is root, and nil for this user otherwise.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil //nolint:nilnil // this user
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// answers is ready when PostgreSQL answers an SSLRequest and takes the startup
// packet of a client without an error, which it does not while it recovers.
func answers(port string) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		if deadline, ok := ctx.Deadline(); ok {
			_ = conn.SetDeadline(deadline)
		}
		body := append([]byte{0, 3, 0, 0}, "user\x00postgres\x00database\x00postgres\x00\x00"...)
		packet := append([]byte{0, 0, 0, byte(len(body) + 4)}, body...) //nolint:gosec // it is short
		if _, err := conn.Write(packet); err != nil {
			return err
		}
		var kind [1]byte
		if _, err := conn.Read(kind[:]); err != nil {
			return err
		}
		if kind[0] != 'R' { // authentication, rather than an error
			return fmt.Errorf("it answers with %q", kind[0])
		}
		return nil
	}
}
