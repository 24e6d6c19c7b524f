package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
)

// Mode is whether a [Client] or [Server] does what it decides.
type Mode int

const (
	// Enforce carries decisions out. It is the zero value.
	Enforce Mode = iota
	// Observe only counts and traces decisions: no call is retried, rejected or given
	// another deadline, no budget is carried, and no outcome of a write is stored or
	// replayed. It still sends what other processes need: a client sends the time and
	// whether the call would have a key, and a server sends its report. A client counts
	// only the decision about the first retry of each call.
	Observe
)

const modeCount = 2

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

// modes are the modes of methods, which can change while calls are made. A call reads
// its mode once, when it starts, and takes no lock for it.
type modes struct {
	mu    sync.Mutex                // held while table is replaced
	table atomic.Pointer[modeTable] // never nil; what it points to does not change
}

// modeTable is the mode of all methods, and that of methods and services by name, as
// in [MethodPolicies].
type modeTable struct {
	all    Mode
	byName map[string]Mode
}

// of returns the mode of a call of a method that starts now.
func (m *modes) of(fullMethod string) Mode {
	t := m.table.Load()
	if len(t.byName) > 0 {
		if mode, ok := named(t.byName, fullMethod); ok {
			return mode
		}
	}
	return t.all
}

// set changes the mode of all methods, or of those named.
func (m *modes) set(mode Mode, names []string) error {
	errs := []error{mode.validate()}
	if names != nil && len(names) == 0 {
		errs = append(errs, errors.New("the list of methods is empty"))
	}
	for _, name := range names {
		if err := validateMethodName(name); err != nil || name == "" {
			errs = append(errs, fmt.Errorf("%q: the name must be /service/method or /service/", name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("SetMode: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next := &modeTable{all: mode, byName: map[string]Mode{}}
	if len(names) > 0 {
		last := m.table.Load()
		next.all = last.all
		maps.Copy(next.byName, last.byName)
	}
	for _, name := range names {
		next.byName[name] = mode
	}
	m.table.Store(next)
	return nil
}

// SetMode changes the mode of the calls that start from now on; calls that have
// started keep theirs. The methods are named as in [MethodPolicies]: one method
// ("/shop.v1.Orders/Get"), or all methods of a service that are not named themselves
// ("/shop.v1.Orders/"). Without names, the mode applies to all methods and replaces all
// modes that were set by name. If a mode or a name is invalid, or the list is empty but
// not nil, SetMode returns an error and changes nothing. It is safe for concurrent use,
// and calls take no lock to read the mode.
//
// [Client.DialOptions] turns gRPC's own retries off, unless the client is in Observe when
// it is called. That cannot be changed on a connection. A connection that was dialled in
// Enforce has no retries at all while the client observes. On a connection that was
// dialled in Observe, gRPC goes on making the retries that the connection's own service
// config asks for; a client that enforces does not retry the methods concerned.
func (c *Client) SetMode(mode Mode, methods ...string) error { return c.modes.set(mode, methods) }

// SetMode changes the mode of the calls that arrive from now on; calls that have
// arrived keep theirs. The methods are named as in [MethodPolicies]: one method
// ("/shop.v1.Orders/Get"), or all methods of a service that are not named themselves
// ("/shop.v1.Orders/"). Without names, the mode applies to all methods and replaces all
// modes that were set by name. If a mode or a name is invalid, or the list is empty but
// not nil, SetMode returns an error and changes nothing. It is safe for concurrent use,
// and calls take no lock to read the mode.
//
// A server that observes a method runs its writes each time they arrive, even if it
// has stored their outcomes before.
func (s *Server) SetMode(mode Mode, methods ...string) error { return s.modes.set(mode, methods) }
