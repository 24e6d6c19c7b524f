package sqlitestore

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Option configures a [Store].
type Option func(*settings) error

type settings struct {
	transactions bool
	expireEvery  time.Duration
	logger       *slog.Logger // nil is slog.Default
}

// DefaultExpireEvery is how often expired records are deleted unless [WithExpiry] says otherwise.
const DefaultExpireEvery = time.Minute

func newSettings(opts []Option) (settings, error) {
	s := settings{expireEvery: DefaultExpireEvery}
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("option %d is nil", i+1))
			continue
		}
		errs = append(errs, opt(&s))
	}
	return s, errors.Join(errs...)
}

func (s *settings) log() *slog.Logger {
	if s.logger == nil {
		return slog.Default()
	}
	return s.logger
}

// WithTransactions runs each write in a transaction, which its handler gets from [Tx].
func WithTransactions() Option {
	return func(s *settings) error {
		s.transactions = true
		return nil
	}
}

// WithExpiry sets how often expired records are deleted. Zero leaves that to [Store.Expire]. The
// default is [DefaultExpireEvery]. It must not be negative.
func WithExpiry(every time.Duration) Option {
	return func(s *settings) error {
		s.expireEvery = every
		if every < 0 {
			return fmt.Errorf("WithExpiry(%v): must not be negative", every)
		}
		return nil
	}
}

// WithLogger sets where the store logs that expired records could not be deleted, and what
// [Store.Check] warns of. The default is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(s *settings) error {
		s.logger = logger
		return nil
	}
}
