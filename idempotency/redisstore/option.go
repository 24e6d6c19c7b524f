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
			errs = append(errs, fmt.Errorf("redisstore: option %d is nil", i+1))
			continue
		}
		errs = append(errs, opt(&s))
	}
	return s, errors.Join(errs...)
}

// WithPrefix sets the prefix of the store's keys. The default is "hopbound". It must not be empty, and
// must not contain braces, which choose the slot of a key in a Cluster, or the special characters of
// Redis's patterns.
func WithPrefix(prefix string) Option {
	return func(s *settings) error {
		s.prefix = prefix
		if prefix == "" || strings.ContainsAny(prefix, `{}*?[]\\`) {
			return fmt.Errorf("redisstore: WithPrefix(%q): must not be empty or contain any of {}*?[]\\", prefix)
		}
		return nil
	}
}

// ClientOption returns opt with two settings that a store needs: DisableCache and AlwaysPipelining.
// Without AlwaysPipelining, rueidis closes a shared connection if a command that was sent while the
// connection was idle is not answered by its deadline.
func ClientOption(opt rueidis.ClientOption) rueidis.ClientOption {
	opt.DisableCache, opt.AlwaysPipelining = true, true
	return opt
}
