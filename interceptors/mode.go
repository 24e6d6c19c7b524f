package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hopbound/hopbound/internal/policy"
)

// Mode says whether a [Client] or [Server] carries out its decisions or only records
// them.
type Mode int

const (
	// Enforce carries decisions out. It is the zero value.
	Enforce Mode = iota
	// Observe only counts and traces decisions: no call is retried, rejected or given
	// another deadline, no tokens are sent, and no outcome of a write is stored or
	// replayed. A client still sends hop-context, with its deadline, the time of
	// sending and whether the call would have a key. A server still sends its report.
	// Because each call has one attempt, a client counts only the decision about the
	// first retry.
	Observe
)

func (m Mode) validate() error {
	if m != Enforce && m != Observe {
		return fmt.Errorf("mode %d is unknown, must be Enforce or Observe", int(m))
	}
	return nil
}

// String returns "enforce" or "observe".
func (m Mode) String() string {
	if m == Observe {
		return "observe"
	}
	return "enforce"
}

// SetMode changes the mode of calls that start later. A call that has started keeps its
// mode.
//
// A name in methods is a method ("/shop.v1.Orders/Get"), or a service
// ("/shop.v1.Orders/") for those of its methods that are not named themselves. Without
// names, SetMode sets the mode of all methods, and removes all modes that were set by
// name. SetMode returns an error and changes nothing if the mode or a name is invalid, or
// if methods is empty but not nil.
//
// SetMode is safe for concurrent use. Calls take no lock to read their mode.
//
// A connection's own retries by gRPC cannot be turned on or off later.
// [Client.DialOptions] turns them off unless the mode of all methods is Observe at that
// moment. If a connection was dialled in Enforce, its calls are not retried at all while
// the client observes. If it was dialled in Observe, gRPC makes the retries of the
// connection's service config in both modes, and in Enforce the client does not itself
// retry the methods that this config retries.
func (c *Client) SetMode(mode Mode, methods ...string) error {
	return setMode(&c.calls.Modes, mode, methods)
}

// SetMode changes the mode of calls that arrive later. A call that has arrived keeps its
// mode. The names in methods and the errors are those of [Client.SetMode]. SetMode is
// safe for concurrent use. Calls take no lock to read their mode.
//
// A server that observes a method runs each write of the method every time it arrives,
// even if the outcome of the write is already stored.
func (s *Server) SetMode(mode Mode, methods ...string) error {
	return setMode(&s.calls.Modes, mode, methods)
}

// SetModes replaces all modes at once: mode is the mode of all methods but those that byName
// names, as [Client.SetMode] does. A call that starts meanwhile has its mode either from before or
// from after the change, but never one of a state in between. SetModes returns an error and changes
// nothing if a mode or a name is invalid. It is safe for concurrent use, and byName may be nil.
func (c *Client) SetModes(mode Mode, byName map[string]Mode) error {
	return setModes(&c.calls.Modes, mode, byName)
}

// SetModes replaces all modes at once, as [Client.SetModes] does.
func (s *Server) SetModes(mode Mode, byName map[string]Mode) error {
	return setModes(&s.calls.Modes, mode, byName)
}

func setModes(modes *policy.Modes, mode Mode, byName map[string]Mode) error {
	errs := []error{mode.validate()}
	observes := make(map[string]bool, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if err := byName[name].validate(); err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", name, err))
		}
		observes[name] = byName[name] == Observe
	}
	err := errors.Join(errs...)
	if err == nil {
		err = modes.Replace(mode == Observe, observes)
	}
	if err != nil {
		return fmt.Errorf("SetModes: %w", err)
	}
	return nil
}

// Observes reports whether a call of a method that arrives now is only observed.
//
// For transports: an adapter for another protocol gives a call that is only observed no deadline.
func (s *Server) Observes(fullMethod string) bool { return s.calls.Modes.Observes(fullMethod) }

// Stores reports whether a call of a method that arrives now with a key has its outcome stored: there is a store, the
// method has side effects and is not [idempotency.Off], and it is not only observed.
//
// For transports: only for such a call, an adapter for another protocol needs to read the body, which is compared if the
// key is used again.
func (s *Server) Stores(fullMethod string) bool { return s.calls.Stores(fullMethod) }

func setMode(modes *policy.Modes, mode Mode, methods []string) error {
	err := mode.validate()
	if err == nil {
		err = modes.Set(mode == Observe, methods)
	}
	if err != nil {
		return fmt.Errorf("SetMode: %w", err)
	}
	return nil
}
