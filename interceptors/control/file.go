package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hopbound/hopbound/interceptors"
	"go.opentelemetry.io/otel/metric"
)

// File is a file of policies and modes. It is an [interceptors.Policies], and always has the last version that was
// valid. It is safe for concurrent use. Open it with [Open].
type File struct {
	settings settings
	source   *source
	loads    metric.Int64Counter // nil if there is no meter provider

	reading chan struct{} // has an element while the source is read
	state   atomic.Pointer[state]

	mu      sync.Mutex // held while another config comes into use
	clients []*interceptors.Client
	servers []*interceptors.Server
	close   func() error // ends the export of metrics
}

// state is what is known after a read. It never changes.
type state struct {
	config config // in use
	text   []byte // of the config
	loaded time.Time

	read []byte // the text that was read last; nil if it could not be read
	err  error  // why that text is not in use
}

// Status is what is known of a [File].
type Status struct {
	// Version is the version in use. If the file has no field version, Version is the start of the text's hash.
	Version string

	// Loaded is when this version was loaded.
	Loaded time.Time

	// Err is why the last read did not give a version that can be used: the errors of the file, joined, or that the
	// file could not be read. It is nil if the version in use is what the file contains.
	Err error
}

// Open reads a file. Location is a path, or a URL that begins with http:// or https://. Open returns an error if an
// option is invalid, or if the file is invalid or cannot be read. An invalid file has an error with its location,
// line and field for each of the first 100 mistakes, joined.
//
// Open reads the file once. [File.Watch] and [File.Reload] read it again. Open a file once in a process, for all of its
// clients: each File reads and measures for itself.
func Open(location string, opts ...Option) (*File, error) {
	f := &File{
		settings: settings{interval: 5 * time.Second, logger: slog.Default(), client: &http.Client{}},
		reading:  make(chan struct{}, 1),
		close:    func() error { return nil },
	}
	var errs []error
	for i, o := range opts {
		if o == nil {
			errs = append(errs, fmt.Errorf("option %d is nil", i+1))
			continue
		}
		errs = append(errs, o(&f.settings))
	}
	var err error
	f.source, err = newSource(location, f.settings.client)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	ctx := context.Background()
	text, err := f.source.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	c, err := parse(f.source.name, text)
	if err == nil {
		err = f.measure()
	}
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	f.use(ctx, c, text)
	return f, nil
}

// ForMethod returns the policy of the most specific entry that has one. It implements [interceptors.Policies]. A call
// sees one version of the file.
func (f *File) ForMethod(fullMethod string) interceptors.Policy {
	return f.state.Load().config.policies.ForMethod(fullMethod)
}

// MethodPolicies returns all policies in use, by the names of their entries. They must not be changed. With
// it, [interceptors.Client.Check] checks these policies, and metrics have the names of their methods as attributes.
func (f *File) MethodPolicies() interceptors.MethodPolicies { return f.state.Load().config.policies }

// Apply sets the modes of a client and of servers to those of the file, now and whenever a new version is loaded. It
// replaces all modes that were set before. The client may be nil. Call Apply before [interceptors.Client.DialOptions],
// which depends on the mode.
//
// The modes change immediately after the policies. A call that starts meanwhile may have the policy of one version and
// the mode of the other.
func (f *File) Apply(client *interceptors.Client, servers ...*interceptors.Server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if client != nil {
		f.clients = append(f.clients, client)
	}
	for _, s := range servers {
		if s != nil {
			f.servers = append(f.servers, s)
		}
	}
	f.setModes(&f.state.Load().config)
}

// setModes needs the lock mu. SetModes cannot fail: the names and modes of a config are valid.
func (f *File) setModes(c *config) {
	for _, client := range f.clients {
		_ = client.SetModes(c.client.all, c.client.byName)
	}
	for _, server := range f.servers {
		_ = server.SetModes(c.server.all, c.server.byName)
	}
}

// Watch reads the file in intervals until the context ends; see [WithInterval]. It starts no goroutine. It reads the
// whole text each time, and so notices every kind of change, also that of a symbolic link in the path.
func (f *File) Watch(ctx context.Context) {
	ticker := time.NewTicker(f.settings.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_ = f.Reload(ctx) // which logs and counts the error
		}
	}
}

// Reload reads the file now. If it is invalid or cannot be read, the last version that was valid stays in use, and
// Reload returns the error, logs it and counts it. If the file contains what is in use, nothing is changed. The context
// limits the time of reading a URL, and of waiting for another Reload. If it is cancelled, nothing is logged or counted.
func (f *File) Reload(ctx context.Context) error {
	select {
	case f.reading <- struct{}{}:
		defer func() { <-f.reading }()
	case <-ctx.Done():
		return fmt.Errorf("control: %s: waiting for another read: %w", f.source.name, ctx.Err())
	}
	last := f.state.Load()
	text, err := f.source.read(ctx)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return err
	case err != nil:
		return f.fail(ctx, "unreadable", nil, err)
	case last.read != nil && bytes.Equal(text, last.read):
		return last.err
	case bytes.Equal(text, last.text): // the text in use is back, after one that was invalid or could not be read
		f.state.Store(&state{config: last.config, text: last.text, loaded: last.loaded, read: text})
		f.count(ctx, "ok")
		f.settings.logger.LogAttrs(ctx, slog.LevelInfo, "hopbound: the policies in use are again those of the file",
			slog.String("file", f.source.name), slog.String("version", last.config.version))
		return nil
	}
	c, err := parse(f.source.name, text)
	if err != nil {
		return f.fail(ctx, "invalid", text, err)
	}
	f.use(ctx, c, text)
	return nil
}

// use makes a config the one in use.
func (f *File) use(ctx context.Context, c config, text []byte) {
	f.mu.Lock()
	f.state.Store(&state{config: c, text: text, loaded: time.Now(), read: text})
	f.setModes(&c)
	f.mu.Unlock()
	f.count(ctx, "ok")
	f.settings.logger.LogAttrs(ctx, slog.LevelInfo, "hopbound: loaded policies",
		slog.String("file", f.source.name), slog.String("version", c.version), slog.Int("policies", len(c.policies)))
}

// fail keeps the config in use. A file that stays unreadable is logged and counted once.
func (f *File) fail(ctx context.Context, result string, read []byte, err error) error {
	err = fmt.Errorf("control: %w", err)
	last := *f.state.Load()
	next := last
	next.read, next.err = read, err
	f.state.Store(&next)
	if read != nil || last.read != nil {
		f.count(ctx, result)
		f.settings.logger.LogAttrs(ctx, slog.LevelWarn, "hopbound: policies are not loaded, the last valid version stays in use",
			slog.String("file", f.source.name), slog.String("version", next.config.version), slog.String("error", err.Error()))
	}
	return err
}

// Close ends the export of metrics. The policies and modes stay as they are. Close does not end [File.Watch], which ends
// with its context.
func (f *File) Close() error { return f.close() }

// Status returns what is known of the file.
func (f *File) Status() Status {
	s := f.state.Load()
	return Status{Version: s.config.version, Loaded: s.loaded, Err: s.err}
}
