package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"
)

// interopPackages are the programs of gRPC's interoperability tests.
func interopPackages() []string {
	return []string{grpcModule + "/interop/server", grpcModule + "/interop/client"}
}

func interopPath(dir, pkg string) string { return filepath.Join(dir, "interop-"+filepath.Base(pkg)) }

// interopUnits returns the cases of gRPC's interop_test.sh. Each has its own server.
func interopUnits(dir string) []unit {
	cases := [...]string{
		"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
		"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
		"status_code_and_message", "special_status_message", "custom_metadata",
		"unimplemented_method", "unimplemented_service", "orca_per_rpc", "orca_oob", "rpc_soak", "channel_soak",
	}
	units := make([]unit, 0, len(cases))
	for _, name := range cases {
		units = append(units, unit{"interop " + name, func(ctx context.Context, mode string) ([]byte, error) {
			return interop(ctx, dir, mode, name)
		}})
	}
	return units
}

// interop runs one case.
func interop(ctx context.Context, dir, mode, name string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	server := process(ctx, mode, filepath.Join(dir, "interop-server"), "--use_tls", "--port="+port)
	if err := server.Start(); err != nil {
		return nil, err
	}
	defer func() {
		cancel()
		_ = server.Wait() // returns that it was killed
	}()
	if err := awaitServer(ctx, port); err != nil {
		return nil, err
	}
	return process(ctx, mode, filepath.Join(dir, "interop-client"), "--use_tls", "--use_test_ca",
		"--server_host_override=foo.test.google.fr", "--server_host=127.0.0.1", "--server_port="+port, "--test_case="+name,
		`--service_config_json={"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`).CombinedOutput()
}

func freePort(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	address, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return "", fmt.Errorf("unexpected listener address %v", l.Addr())
	}
	return strconv.Itoa(address.Port), nil
}

// awaitServer returns when the server accepts connections.
func awaitServer(ctx context.Context, port string) error {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
