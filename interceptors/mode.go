package interceptors

import (
	"fmt"

	"github.com/hopbound/hopbound/internal/policy"
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
func (c *Client) SetMode(mode Mode, methods ...string) error {
	return setMode(&c.calls.Modes, mode, methods)
}

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
func (s *Server) SetMode(mode Mode, methods ...string) error {
	return setMode(&s.calls.Modes, mode, methods)
}

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
