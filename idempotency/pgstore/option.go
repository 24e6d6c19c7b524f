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

func newSettings(opts []Option) (settings, error) {
	s := settings{listen: true, channel: "hopbound_idempotency", expireEvery: time.Minute, settle: 10 * time.Second}
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("pgstore: option %d is nil", i+1))
			continue
		}
		errs = append(errs, opt(&s))
	}
	return s, errors.Join(errs...)
}

// WithSchema sets the schema of the tables. The schema must exist, and its name must have 1 to 42
// bytes, without single quotes, dollar signs and NUL bytes. By default, the tables are found by the
// search path.
func WithSchema(name string) Option {
	return func(s *settings) error {
		if name == "" {
			return errors.New("pgstore: WithSchema: the name must not be empty")
		}
		if strings.ContainsAny(name, "'$\x00") {
			return fmt.Errorf("pgstore: WithSchema(%q): the name must not contain a quote or a dollar sign", name)
		}
		s.prefix = pgx.Identifier{name}.Sanitize() + "."
		s.channel = "hopbound_idempotency_" + name
		if len(s.channel) > 63 {
			return fmt.Errorf("pgstore: WithSchema(%q): the name must have at most 42 bytes", name)
		}
		return nil
	}
}

// WithTransactions runs each write in a transaction, which the handler gets from [Tx] or [SQLTx].
func WithTransactions() Option {
	return func(s *settings) error {
		s.transactions = true
		return nil
	}
}

// WithIsolation sets the isolation level of the transactions that handlers run in: [pgx.ReadCommitted],
// [pgx.RepeatableRead] or [pgx.Serializable]. The default is [pgx.ReadCommitted], whatever the
// database's default is. At the other two levels, PostgreSQL rolls back a transaction that it cannot
// serialize; see [idempotency.Reruns].
func WithIsolation(level pgx.TxIsoLevel) Option {
	return func(s *settings) error {
		s.isolation = level
		switch level {
		case pgx.ReadCommitted:
			s.isolation = ""
		case pgx.RepeatableRead, pgx.Serializable:
		default:
			return fmt.Errorf("pgstore: WithIsolation(%q): must be read committed, repeatable read or serializable", level)
		}
		return nil
	}
}

// WithLogger sets the logger that warns when expired records cannot be deleted. The default, also for
// nil, is [slog.Default].
func WithLogger(logger *slog.Logger) Option {
	return func(s *settings) error {
		s.logger = logger
		return nil
	}
}

// WithoutListen makes the store open no connection that listens for notifications. Calls that wait only
// poll.
func WithoutListen() Option {
	return func(s *settings) error {
		s.listen = false
		return nil
	}
}

// WithExpiry sets how often expired records are deleted. With zero, only [Store.Expire] deletes them.
// The default is a minute. It must not be negative.
func WithExpiry(every time.Duration) Option {
	return func(s *settings) error {
		s.expireEvery = every
		if every < 0 {
			return fmt.Errorf("pgstore: WithExpiry(%v): must not be negative", every)
		}
		return nil
	}
}

// WithSettleTimeout bounds how long a commit may take. If the commit gets no answer, the store tries
// for as long again to find out whether the commit took effect. The default is 10 s. It must be
// positive.
func WithSettleTimeout(d time.Duration) Option {
	return func(s *settings) error {
		s.settle = d
		if d <= 0 {
			return fmt.Errorf("pgstore: WithSettleTimeout(%v): must be positive", d)
		}
		return nil
	}
}
