package control

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// Option configures a [File].
type Option func(*settings) error

type settings struct {
	interval time.Duration
	logger   *slog.Logger
	meters   metric.MeterProvider // nil if there are no metrics
	client   *http.Client
}

// WithInterval sets how often [File.Watch] reads the file. The default is 5 s.
func WithInterval(d time.Duration) Option {
	return func(s *settings) error {
		if d <= 0 {
			return fmt.Errorf("WithInterval(%v): must be positive", d)
		}
		s.interval = d
		return nil
	}
}

// WithLogger sets the logger. A new version of the file is logged at level info. A version that is invalid and a file
// that cannot be read are logged at level warn, once until that changes. The default is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(s *settings) error {
		if logger == nil {
			return errors.New("WithLogger: nil")
		}
		s.logger = logger
		return nil
	}
}

// WithMeterProvider exports these metrics, each with the attribute hopbound.control.file:
//
//   - hopbound.control.version, a gauge that is 1, with the version in use as the attribute hopbound.control.version,
//   - hopbound.control.loaded, a gauge of the Unix time in seconds at which this version was loaded,
//   - hopbound.control.current, a gauge that is 1 if the version in use is what the file contained when it was last
//     read, and 0 if the file is invalid or cannot be read,
//   - hopbound.control.loads, a counter of reads that found a change, by hopbound.control.result: ok, invalid or
//     unreadable.
//
// Without this option there are no metrics.
func WithMeterProvider(provider metric.MeterProvider) Option {
	return func(s *settings) error {
		if provider == nil {
			return errors.New("WithMeterProvider: nil")
		}
		s.meters = provider
		return nil
	}
}

// WithHTTPClient sets the client that reads a URL, for example one with a client certificate. A read fails
// after 10 s, or earlier if the client has a shorter timeout. WithHTTPClient has no effect on a path.
func WithHTTPClient(client *http.Client) Option {
	return func(s *settings) error {
		if client == nil {
			return errors.New("WithHTTPClient: nil")
		}
		s.client = client
		return nil
	}
}
