package redisstore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redis/rueidis"
)

// Option configures a [Store].
type Option func(*settings) error

type settings struct {
	prefix string
}

func newSettings(opts []Option) (settings, error) {
	s := settings{prefix: "hopbound"}
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

// WithPrefix sets what the store's keys begin with. The default is "hopbound".
// It must not contain braces, which choose the slot of a key in a Cluster, or characters that
// are special in a pattern of Redis's.
func WithPrefix(prefix string) Option {
	return func(s *settings) error {
		s.prefix = prefix
		if prefix == "" || strings.ContainsAny(prefix, `{}*?[]\\`) {
			return fmt.Errorf("WithPrefix(%q): must not be empty or contain any of {}*?[]\\", prefix)
		}
		return nil
	}
}

// ClientOption returns the options with two settings that a store needs:
// DisableCache and AlwaysPipelining. Without AlwaysPipelining, rueidis closes a
// shared connection if a command that was sent on it while it was idle is not
// answered by its deadline.
func ClientOption(opt rueidis.ClientOption) rueidis.ClientOption {
	opt.DisableCache, opt.AlwaysPipelining = true, true
	return opt
}
