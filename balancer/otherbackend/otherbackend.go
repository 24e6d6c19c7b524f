// Package otherbackend is a load-balancing policy that sends a retry or a hedge to a backend that the call
// has not tried, if such a backend is ready. Envoy calls this feature previous hosts.
//
// The policy wraps another policy, its child, which picks the backends. If the child picks a backend that
// the call has already tried, the policy asks the child to pick again. To use the policy, import this
// package, which registers it, and name it in the service config:
//
//	import _ "github.com/hopbound/hopbound/balancer/otherbackend"
//
//	grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"hopbound_other_backend": {
//		"childPolicy": [{"round_robin": {}}]
//	}}]}`)
//
// The calls must be made with a client of package interceptors, which tells the policy which attempts
// belong to one call. The policy changes nothing for other calls, for first attempts, for a target with
// one backend, and for a child that always picks the same backend, such as pick_first.
//
// To stop using a backend that keeps failing, configure gRPC's outlier detection as the parent of this
// policy, not as its child. A child also sees picks whose backend is not used.
package otherbackend

import (
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/serviceconfig"
)

// Name is the name of the policy in a service config.
const Name = "hopbound_other_backend"

func init() { //nolint:gochecknoinits // gRPC requires it
	balancer.Register(builder{})
}

type builder struct{}

// Name returns [Name].
func (builder) Name() string { return Name }

// Build returns the balancer of a connection.
func (builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	return &otherBackend{cc: cc, opts: opts}
}

// config is the policy's part of a service config.
type config struct {
	serviceconfig.LoadBalancingConfig
	child  balancer.Builder
	config serviceconfig.LoadBalancingConfig // of the child; nil if it has none
}

// ParseConfig parses the policy's part of a service config:
//
//	{"childPolicy": [{"round_robin": {}}]}
//
// The child is the first registered policy of the list. Without childPolicy, it is round_robin.
func (builder) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	var fields struct {
		ChildPolicy *[]map[string]json.RawMessage `json:"childPolicy"`
	}
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("%s: %w", Name, err)
	}
	if fields.ChildPolicy == nil {
		return parseChild(roundrobin.Name, nil)
	}
	for _, entry := range *fields.ChildPolicy {
		if len(entry) != 1 {
			return nil, fmt.Errorf("%s: an entry of childPolicy names %d policies; it must name one", Name, len(entry))
		}
		for name, text := range entry {
			if balancer.Get(name) != nil {
				return parseChild(name, text)
			}
		}
	}
	return nil, fmt.Errorf("%s: childPolicy names no registered policy", Name)
}

func parseChild(name string, text json.RawMessage) (*config, error) {
	c := &config{child: balancer.Get(name)}
	parser, ok := c.child.(balancer.ConfigParser)
	if !ok {
		return c, nil
	}
	if text == nil {
		text = json.RawMessage("{}")
	}
	var err error
	if c.config, err = parser.ParseConfig(text); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", Name, name, err)
	}
	return c, nil
}
