package interop_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// nginxConfig surrounds the servers that a test configures. All files are in the folder of the test.
const nginxConfig = `daemon off; worker_processes 1; %[1]s
pid %[2]s/pid; error_log %[2]s/error.log warn;
events { worker_connections 1024; }
http {
	access_log off;
	client_body_temp_path %[2]s/body; proxy_temp_path %[2]s/proxy; fastcgi_temp_path %[2]s/fastcgi;
	uwsgi_temp_path %[2]s/uwsgi; scgi_temp_path %[2]s/scgi;
%[3]s
}
`

// endedWhileStarting is the exit code of a shell whose program was ended by SIGTERM, which nginx does not handle at first.
const endedWhileStarting = 128 + 15

// startNginx runs nginx until the test ends, with as many addresses to listen on as it is told. The function servers
// returns the configuration of the servers that listen on them.
//
// nginx inherits the listening sockets, as it does when its binary is replaced. A client may therefore connect before nginx
// runs, and no other process can take a port. The shell ends nginx even if the test's process has died.
func startNginx(t testing.TB, ports int, servers func(addresses []string) string) (addresses []string) {
	t.Helper()
	program := binary(t, "nginx", "nginx")
	folder := t.TempDir()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "sh", "-c", `"$@" & read _; kill -TERM $!; wait $!`, "sh",
		program, "-p", folder, "-c", filepath.Join(folder, "nginx.conf"), "-e", "stderr")
	var inherited strings.Builder
	inherited.WriteString("NGINX=")
	for i := range ports {
		file, address := listeningSocket(t)
		defer func() { _ = file.Close() }()
		addresses = append(addresses, address)
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
		fmt.Fprint(&inherited, 3+i, ";")
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the folder belongs to root
	}
	config := fmt.Sprintf(nginxConfig, user, folder, servers(addresses))
	if err := os.WriteFile(filepath.Join(folder, "nginx.conf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), inherited.String())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		err := cmd.Wait()
		log, _ := os.ReadFile(filepath.Join(folder, "error.log"))
		if cmd.ProcessState.ExitCode() == endedWhileStarting {
			err = nil
		}
		if err != nil || strings.Contains(string(log), "[emerg]") {
			t.Errorf("nginx ended with %v, and logged:\n%s", err, log)
		}
	})
	return addresses
}

// listeningSocket returns a socket that listens on a loopback port.
func listeningSocket(t testing.TB) (file *os.File, address string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		t.Fatalf("the listener is a %T", listener)
	}
	if file, err = tcp.File(); err != nil {
		t.Fatal(err)
	}
	return file, listener.Addr().String()
}

// nginxFor runs nginx in front of two upstreams until the test ends, with the configuration that docs/interop.md
// recommends. The pairs in changes replace text of the configuration.
func nginxFor(t testing.TB, upstreams [2]string, changes ...string) (address string) {
	t.Helper()
	recommended := recommendedConfig(t)
	for i := 0; i < len(changes); i += 2 {
		if strings.Count(recommended, changes[i]) != 1 {
			t.Fatalf("the recommended configuration has no single %q", changes[i])
		}
		recommended = strings.Replace(recommended, changes[i], changes[i+1], 1)
	}
	return startNginx(t, 1, func(addresses []string) string {
		return strings.NewReplacer("listen 50051", "listen "+addresses[0], "10.0.0.1:50051", upstreams[0], "10.0.0.2:50051", upstreams[1]).
			Replace(recommended)
	})[0]
}

// recommendedConfig returns the configuration of nginx in docs/interop.md.
func recommendedConfig(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), "```nginx\n")
	config, _, found := strings.Cut(after, "```")
	if !found {
		t.Fatalf("%s has no configuration of nginx", page)
	}
	return config
}

// refusingAddress returns an address that refuses connections until the test ends. It is that of a connection, so that no
// listener can get its port.
func refusingAddress(t testing.TB) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = listener.Close()
	t.Cleanup(func() {
		_, _ = conn.Close(), accepted.Close()
	})
	return conn.LocalAddr().String()
}
