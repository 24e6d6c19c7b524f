package services

import "fmt"

// Chromium returns the path of a browser that runs without a screen.
func Chromium(t TB) string {
	t.Helper()
	return binary(t, "chromium", "/usr/bin/google-chrome*", "/usr/lib/chromium*/chromium")
}

// Prometheus returns the paths of a Prometheus and of its promtool.
func Prometheus(t TB) (prometheus, promtool string) {
	t.Helper()
	return binary(t, "prometheus"), binary(t, "promtool")
}

func binary(t TB, name string, patterns ...string) string {
	t.Helper()
	path, err := find(name, patterns...)
	if err != nil {
		missing(t, fmt.Sprintf("no %s: %v", name, err))
	}
	return path
}
