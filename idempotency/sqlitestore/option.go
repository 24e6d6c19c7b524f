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

func newSettings(opts []Option) (settings, error) {
	s := settings{expireEvery: time.Minute}
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("sqlitestore: option %d is nil", i+1))
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

// WithTransactions runs each write in a transaction, which the handler gets from [Tx].
func WithTransactions() Option {
	return func(s *settings) error {
		s.transactions = true
		return nil
	}
}

// WithExpiry sets how often expired records are deleted. With zero, only [Store.Expire] deletes them.
// The default is a minute. It must not be negative.
func WithExpiry(every time.Duration) Option {
	return func(s *settings) error {
		s.expireEvery = every
		if every < 0 {
			return fmt.Errorf("sqlitestore: WithExpiry(%v): must not be negative", every)
		}
		return nil
	}
}

// WithLogger sets the logger for the warnings of [Store.Check], and for expired records that cannot be
// deleted. The default, also for nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(s *settings) error {
		s.logger = logger
		return nil
	}
}
