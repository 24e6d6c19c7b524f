package boltstore

import (
	"errors"
	"fmt"
)

// Option configures a [Store].
type Option func(*settings) error

type settings struct {
	sync bool // wait for the disk
}

func newSettings(opts []Option) (settings, error) {
	s := settings{sync: true}
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("boltstore: option %d is nil", i+1))
			continue
		}
		errs = append(errs, opt(&s))
	}
	return s, errors.Join(errs...)
}

// WithoutSync makes steps return before they are on the disk. A crash of the machine may then lose the
// last steps or damage the file. A crash of the process does neither.
func WithoutSync() Option {
	return func(s *settings) error {
		s.sync = false
		return nil
	}
}
