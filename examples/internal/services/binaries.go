package services

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Chromium returns the path of a browser that runs without a screen.
func Chromium(t testing.TB) string {
	t.Helper()
	return binary(t, "chromium", "/usr/bin/google-chrome*", "/usr/lib/chromium*/chromium")
}

// Prometheus returns the paths of a Prometheus and of its promtool.
func Prometheus(t testing.TB) (prometheus, promtool string) {
	t.Helper()
	return binary(t, "prometheus"), binary(t, "promtool")
}

// Alertmanager returns the path of an Alertmanager.
func Alertmanager(t testing.TB) string {
	t.Helper()
	return binary(t, "alertmanager", "/usr/bin/prometheus-alertmanager")
}

// Protoc returns the path of protoc.
func Protoc(t testing.TB) string {
	t.Helper()
	return binary(t, "protoc")
}

func binary(t testing.TB, name string, patterns ...string) string {
	t.Helper()
	path, err := find(name, patterns...)
	if err != nil {
		missing(t, fmt.Sprintf("no %s: %v", name, err))
	}
	return path
}

// missing ends a test because something is not installed.
func missing(t testing.TB, what string) {
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
