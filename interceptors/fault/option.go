package fault

import (
	"errors"
	"os"
	"strings"

	"go.opentelemetry.io/otel/metric"
)

// Option configures [Faults].
type Option func(*settings) error

type settings struct {
	production []func() string
	seed       uint64
	seeded     bool
	meters     metric.MeterProvider
}

// Seed makes the random choices the same in each run, if the calls are made in the same order. By default they differ.
func Seed(seed uint64) Option {
	return func(s *settings) error { s.seed, s.seeded = seed, true; return nil }
}

// Production adds a check to those of [Environment]: if f returns a text, the faults stay off, and the text says why. Use
// it if your production is known by something else than an environment variable.
func Production(f func() string) Option {
	return func(s *settings) error {
		if f == nil {
			return errors.New("Production: nil")
		}
		s.production = append(s.production, f)
		return nil
	}
}

// WithMeterProvider exports hopbound.fault.injected, a counter by hopbound.fault.rule and hopbound.fault.kind: latency,
// error, lost_reply, cut_stream or clock_skew.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(s *settings) error {
		if p == nil {
			return errors.New("WithMeterProvider: nil")
		}
		s.meters = p
		return nil
	}
}

// Environment reports what says that this is production: an environment variable APP_ENV, ENV, ENVIRONMENT, GO_ENV,
// DEPLOYMENT_ENVIRONMENT or HOPBOUND_ENV whose value begins with "prod" or is "live", or such a value of the attribute
// deployment.environment.name or deployment.environment in OTEL_RESOURCE_ATTRIBUTES. It returns "" if nothing does.
func Environment() string {
	for _, name := range []string{"APP_ENV", "ENV", "ENVIRONMENT", "GO_ENV", "DEPLOYMENT_ENVIRONMENT", "HOPBOUND_ENV"} {
		if value := os.Getenv(name); isProduction(value) {
			return name + "=" + value
		}
	}
	for attribute := range strings.SplitSeq(os.Getenv("OTEL_RESOURCE_ATTRIBUTES"), ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(attribute), "=")
		if (key == "deployment.environment.name" || key == "deployment.environment") && isProduction(value) {
			return "OTEL_RESOURCE_ATTRIBUTES " + key + "=" + value
		}
	}
	return ""
}

func isProduction(value string) bool {
	value = strings.ToLower(strings.TrimSpace(value))
	return strings.HasPrefix(value, "prod") || value == "live"
}
