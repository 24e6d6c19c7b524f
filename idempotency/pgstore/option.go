package pgstore

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Option configures a [Store].
type Option func(*settings) error

type settings struct {
	prefix       string // of tables: a quoted schema and a dot, or nothing
	channel      string
	transactions bool
	listen       bool
	expireEvery  time.Duration
	settle       time.Duration
	isolation    pgx.TxIsoLevel // empty is read committed
	logger       *slog.Logger   // nil is slog.Default
}

func (s *settings) log() *slog.Logger {
	if s.logger == nil {
		return slog.Default()
	}
	return s.logger
}

// Defaults of options.
const (
	DefaultExpireEvery = time.Minute
	DefaultSettle      = 10 * time.Second
)

func newSettings(opts []Option) (settings, error) {
	s := settings{listen: true, channel: "hopbound_idempotency", expireEvery: DefaultExpireEvery, settle: DefaultSettle}
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

// WithSchema sets the schema that the tables are in. The default is the search
// path. The schema must exist.
func WithSchema(name string) Option {
	return func(s *settings) error {
		if name == "" {
			return errors.New("WithSchema: an empty name")
		}
		if strings.ContainsAny(name, "'$\x00") {
			return fmt.Errorf("WithSchema(%q): the name has a quote or a dollar sign", name)
		}
		s.prefix = pgx.Identifier{name}.Sanitize() + "."
		s.channel = "hopbound_idempotency_" + name
		if len(s.channel) > 63 {
			return fmt.Errorf("WithSchema(%q): the name has more than 42 bytes", name)
		}
		return nil
	}
}

// WithTransactions runs each write in a transaction, which its handler gets from
// [Tx] or [SQLTx].
func WithTransactions() Option {
	return func(s *settings) error {
		s.transactions = true
		return nil
	}
}

// WithIsolation sets the isolation of the transactions that handlers run in: [pgx.RepeatableRead]
// or [pgx.Serializable]. The default is [pgx.ReadCommitted], whatever the database's is. At the
// other levels PostgreSQL rolls back a transaction that it cannot serialize; see
// [idempotency.Reruns].
func WithIsolation(level pgx.TxIsoLevel) Option {
	return func(s *settings) error {
		s.isolation = level
		switch level {
		case pgx.ReadCommitted:
			s.isolation = ""
		case pgx.RepeatableRead, pgx.Serializable:
		default:
			return fmt.Errorf("WithIsolation(%q): must be read committed, repeatable read or serializable", level)
		}
		return nil
	}
}

// WithLogger sets where the store logs that expired records could not be deleted. The default
// is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(s *settings) error {
		s.logger = logger
		return nil
	}
}

// WithoutListen opens no connection that listens for notifications: calls that
// wait only poll.
func WithoutListen() Option {
	return func(s *settings) error {
		s.listen = false
		return nil
	}
}

// WithExpiry sets how often expired records are deleted. Zero leaves it to
// [Store.Expire]. The default is [DefaultExpireEvery].
func WithExpiry(every time.Duration) Option {
	return func(s *settings) error {
		s.expireEvery = every
		if every < 0 {
			return fmt.Errorf("WithExpiry(%v): less than nothing", every)
		}
		return nil
	}
}

// WithSettleTimeout bounds how long a commit may take, and then how long the
// store tries to find out whether a commit without an answer took effect. The
// default is [DefaultSettle].
func WithSettleTimeout(d time.Duration) Option {
	return func(s *settings) error {
		s.settle = d
		if d <= 0 {
			return fmt.Errorf("WithSettleTimeout(%v): must be more than nothing", d)
		}
		return nil
	}
}
