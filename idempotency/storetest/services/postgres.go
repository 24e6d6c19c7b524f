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

// Postgres runs a PostgreSQL server with empty databases until the test ends. Settings such as
// "fsync=on" override the defaults. By default fsync is off.
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

// URL returns the connection string of a PostgreSQL server's database.
func (s *Server) URL() string { return "postgres://postgres@" + s.Addr + "/postgres?sslmode=disable" }

// credential returns the user to run PostgreSQL as: the user postgres if this process runs as
// root, which PostgreSQL refuses, and otherwise nil, which is the user of this process.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil //nolint:nilnil // the user of this process
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

// answers returns a check that succeeds once PostgreSQL accepts the startup packet of a client.
// During recovery, PostgreSQL answers with an error.
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
