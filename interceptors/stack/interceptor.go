package stack

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
)

// Client is a client's stack. Make it with [NewClient].
type Client struct{ parts []*part }

// Server is a server's stack. Make it with [NewServer].
type Server struct{ parts []*part }

// NewClient composes the stack of a client from its parts, which must be given in their order. It returns all errors,
// joined: it is an error if a part is nil, given twice or out of its order, or if [Retry] is missing.
func NewClient(parts ...ClientPart) (*Client, error) {
	all, err := compose(parts, func(p ClientPart) *part { return p.client() }, clientOrder(), nameRetry)
	if err != nil {
		return nil, err
	}
	return &Client{all}, nil
}

// NewServer composes the stack of a server from its parts, which must be given in their order. It returns all errors,
// joined, as [NewClient] does.
func NewServer(parts ...ServerPart) (*Server, error) {
	all, err := compose(parts, func(p ServerPart) *part { return p.server() }, serverOrder(), nameServe)
	if err != nil {
		return nil, err
	}
	return &Server{all}, nil
}

// compose checks the parts of a stack.
func compose[P comparable](parts []P, resolve func(P) *part, order []string, needed string) (all []*part, err error) {
	var errs []error
	var none P
	last := -1
	for i, given := range parts {
		var p *part
		if given != none {
			p = resolve(given)
		}
		if p == nil {
			errs = append(errs, fmt.Errorf("part %d is nil, or a time that is not positive", i+1))
			continue
		}
		position := slices.Index(order, p.name)
		switch {
		case slices.ContainsFunc(all, func(other *part) bool { return other.name == p.name }):
			errs = append(errs, fmt.Errorf("%s is given twice", p.name))
		case position < last:
			errs = append(errs, fmt.Errorf("%s must come before %s; the order is %s", p.name, order[last], strings.Join(order, " → ")))
		default:
			last = position
		}
		all = append(all, p)
	}
	if !slices.ContainsFunc(all, func(p *part) bool { return p.name == needed }) {
		errs = append(errs, fmt.Errorf("%s is missing", needed))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("stack: %w", err)
	}
	return all, nil
}

// DialOptions returns the options that install the stack.
func (c *Client) DialOptions() (opts []grpc.DialOption) {
	for _, p := range c.parts {
		opts = append(opts, p.dial...)
	}
	return opts
}

// String reports what was composed, for unary calls and for streams.
func (c *Client) String() string { return describe(c.parts) }

// ServerOptions returns the options that install the stack.
func (s *Server) ServerOptions() (opts []grpc.ServerOption) {
	for _, p := range s.parts {
		opts = append(opts, p.serve...)
	}
	return opts
}

// String reports what was composed, for unary calls and for streams.
func (s *Server) String() string { return describe(s.parts) }

func describe(parts []*part) string {
	unary, streams := make([]string, 0, len(parts)), make([]string, 0, len(parts))
	for _, p := range parts {
		unary = append(unary, p.name)
		if p.streams {
			streams = append(streams, p.name)
		}
	}
	return "unary calls: " + strings.Join(unary, " → ") + "\nstreams: " + strings.Join(streams, " → ")
}
