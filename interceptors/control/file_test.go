package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"github.com/hopbound/hopbound/interceptors/control"
	"github.com/hopbound/hopbound/interceptors/internal/companiontest"
	"go.opentelemetry.io/otel/metric/noop"
)

// text is a version of a file: its policy has a timeout of so many seconds, and so many attempts.
func text(version int) string {
	return fmt.Sprintf("version: v%d\nmethods:\n  - name: \"\"\n    timeout: %ds\n    retry: {maxAttempts: %d}\n", version, version, version)
}

// write replaces a file as users should: with a file that is already complete.
func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, content string, opts ...control.Option) (file *control.File, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "policies.yaml")
	write(t, path, content)
	file, err := control.Open(path, append([]control.Option{control.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return file, path
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// timeout is the timeout of a method's policy.
func timeout(f *control.File) time.Duration { return f.ForMethod("/a.B/C").Timeout }

// log collects what is logged.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take returns what has been logged since the last call.
func (l *log) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.b.Reset()
	return l.b.String()
}

func (l *log) option() control.Option {
	return control.WithLogger(slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey || a.Key == "file" {
			return slog.Attr{}
		}
		return a
	}})))
}

func TestOpenReturnsAllErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "policies.yaml")
	write(t, path, "mode: on\nversion: ''\n")
	large := filepath.Join(dir, "large.yaml")
	write(t, large, "#"+strings.Repeat(" ", 1<<20))
	for want, open := range map[string]func() (*control.File, error){
		path + ":1: mode: must be one of enforce, observe\n" + path + ":2: version: must be": func() (*control.File, error) { return control.Open(path) },
		"no such file":                     func() (*control.File, error) { return control.Open(filepath.Join(dir, "none.yaml")) },
		"is a directory":                   func() (*control.File, error) { return control.Open(dir) },
		"is larger than 1 MiB":             func() (*control.File, error) { return control.Open(large) },
		"the URL of the file is malformed": func() (*control.File, error) { return control.Open("https://user:s3cret/1@host") },
		"no Host in request URL":           func() (*control.File, error) { return control.Open("https://", control.WithInterval(1)) },
		"option 1 is nil":                  func() (*control.File, error) { return control.Open(path, nil) },
		"WithInterval(0s)":                 func() (*control.File, error) { return control.Open(path, control.WithInterval(0)) },
		"WithLogger: nil":                  func() (*control.File, error) { return control.Open(path, control.WithLogger(nil)) },
		"WithMeterProvider: nil":           func() (*control.File, error) { return control.Open(path, control.WithMeterProvider(nil)) },
		"WithHTTPClient: nil":              func() (*control.File, error) { return control.Open(path, control.WithHTTPClient(nil)) },
		"WithInterval(-1ns): must be positive\nWithLogger: nil": func() (*control.File, error) {
			return control.Open(path, control.WithInterval(-1), control.WithLogger(nil))
		},
	} {
		if f, err := open(); f != nil || err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "control: ") {
			t.Errorf("%v, %v, want %s", f, err, want)
		}
	}
}

func TestReloadUsesTheNewVersionAndKeepsTheLastGoodOne(t *testing.T) {
	t.Parallel()
	var logged log
	f, path := open(t, text(1), logged.option())
	loaded := f.Status().Loaded
	if got := logged.take(); got != "level=INFO msg=\"hopbound: loaded policies\" version=v1 policies=1\n" {
		t.Error(got)
	}
	const kept = `level=WARN msg="hopbound: policies are not loaded, the last valid version stays in use" version=v2 error=`
	for _, step := range []struct {
		name    string
		change  func()
		timeout int // in seconds
		err     string
		log     string
	}{
		{"nothing has changed", func() {}, 1, "", ""},
		{"a new version", func() { write(t, path, text(2)) }, 2, "", `level=INFO msg="hopbound: loaded policies" version=v2 policies=1`},
		{"an invalid version", func() { write(t, path, "methods:\n  - name: /a.B/C\n    timout: 1s\n") }, 2, `:3: methods[0]: unknown field "timout"`, kept},
		{"still invalid", func() {}, 2, `:3: methods[0]: unknown field "timout"`, ""},
		{"an empty file", func() { write(t, path, "") }, 2, ":1: is empty", kept},
		{"no file", func() { _ = os.Remove(path) }, 2, "no such file", kept},
		{"still no file", func() {}, 2, "no such file", ""},
		{"an empty file again", func() { write(t, path, "") }, 2, ":1: is empty", kept},
		{"the version in use again", func() { write(t, path, text(2)) }, 2, "", `level=INFO msg="hopbound: the policies in use are again those of the file" version=v2`},
		{"a third version", func() { write(t, path, text(3)) }, 3, "", `level=INFO msg="hopbound: loaded policies" version=v3 policies=1`},
	} {
		step.change()
		err := f.Reload(t.Context())
		status := f.Status()
		if got := timeout(f); got != seconds(step.timeout) || status.Version != fmt.Sprintf("v%d", step.timeout) {
			t.Errorf("%s: %v in version %s, want %ds", step.name, got, status.Version, step.timeout)
		}
		if !errors.Is(err, status.Err) || (err == nil) != (step.err == "") || err != nil && !strings.Contains(err.Error(), step.err) {
			t.Errorf("%s: %v and %v, want %s", step.name, err, status.Err, step.err)
		}
		if got := logged.take(); !strings.HasPrefix(got, step.log) || (got == "") != (step.log == "") || strings.Count(got, "\n") > 1 {
			t.Errorf("%s: logged %s, want %s", step.name, got, step.log)
		}
	}
	if _ = os.Remove(path); !errors.Is(f.Reload(t.Context()), fs.ErrNotExist) {
		t.Error("the cause of the error is lost")
	}
	if f.Status().Loaded.Before(loaded) {
		t.Error("loaded before it was opened")
	}
}

// Kubernetes changes the files of a ConfigMap together: their directory is a symbolic link, which it replaces.
func TestSymbolicLinkOfAConfigMapIsFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	publish := func(version int) {
		t.Helper()
		data := fmt.Sprintf("..v%d", version)
		if err := errors.Join(
			os.Mkdir(filepath.Join(dir, data), 0o700),
			os.WriteFile(filepath.Join(dir, data, "policies.yaml"), []byte(text(version)), 0o600),
			os.Symlink(data, filepath.Join(dir, "..data_tmp")),
			os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")),
		); err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	if err := os.Symlink(filepath.Join("..data", "policies.yaml"), filepath.Join(dir, "policies.yaml")); err != nil {
		t.Fatal(err)
	}
	f, err := control.Open(filepath.Join(dir, "policies.yaml"), control.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	publish(2)
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "..v1")), f.Reload(t.Context())); err != nil || timeout(f) != 2*time.Second {
		t.Errorf("%v %v", timeout(f), err)
	}
}

func TestWatchReadsInIntervalsUntilItsContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, path := open(t, text(1), control.WithInterval(time.Minute))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); f.Watch(ctx) }()
		write(t, path, text(2))
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		if timeout(f) != time.Second {
			t.Error("read before the interval has passed")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if timeout(f) != 2*time.Second || time.Since(f.Status().Loaded) != 0 {
			t.Errorf("%v, loaded %v ago", timeout(f), time.Since(f.Status().Loaded))
		}
		write(t, path, "")
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := f.Status().Err; err == nil || timeout(f) != 2*time.Second {
			t.Errorf("%v %v", err, timeout(f))
		}
		cancel()
		<-ended
	})
}

// The code of the guide.
func TestClientOfTheGuideHasTheModeOfItsFile(t *testing.T) {
	t.Parallel()
	_, path := open(t, "mode: observe")
	synctest.Test(t, func(t *testing.T) {
		client, err := newClient(t.Context(), path, noop.NewMeterProvider())
		if err != nil || len(client.DialOptions()) != 2 { // without grpc.WithDisableRetry
			t.Error(err)
		}
		if _, err := newClient(t.Context(), path+".none", noop.NewMeterProvider()); err == nil {
			t.Error("no error without a file")
		}
	})
}

func TestCallSeesOneVersion(t *testing.T) {
	t.Parallel()
	f, path := open(t, text(1))
	client, err := interceptors.NewClient(interceptors.WithPolicy(f))
	if err != nil {
		t.Fatal(err)
	}
	server, err := interceptors.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	f.Apply(client, server)
	leaf := &companiontest.Server{Handle: func(context.Context) error { return nil }}
	conn := companiontest.Connect(t, leaf, server.ServerOptions(), client.DialOptions()...)
	var reloaded atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !reloaded.Load() {
				p := f.ForMethod(companiontest.Check)
				if p.Timeout != time.Duration(p.Retry.MaxAttempts)*time.Second {
					t.Errorf("a timeout of %v and %d attempts", p.Timeout, p.Retry.MaxAttempts)
				}
				if err := companiontest.Call(t.Context(), conn, false); err != nil {
					t.Error(err)
				}
				_ = f.Status()
			}
		})
	}
	for version := range 50 {
		write(t, path, text(version+1))
		if err := f.Reload(t.Context()); err != nil {
			t.Error(err)
		}
	}
	reloaded.Store(true)
	wg.Wait()
}

func TestReloadsMayRunConcurrently(t *testing.T) {
	t.Parallel()
	f, path := open(t, text(1))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			client, err := interceptors.NewClient(interceptors.WithPolicy(f))
			if err != nil {
				t.Error(err)
			}
			f.Apply(client)
			if i == 0 {
				write(t, path, text(2))
			}
			if err := f.Reload(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := f.Reload(t.Context()); err != nil || timeout(f) != 2*time.Second {
		t.Errorf("%v %v", timeout(f), err)
	}
}
