package health

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Option configures a [Client] or a [Server].
type Option interface {
	ClientOption
	ServerOption
}

// ClientOption configures a [Client].
type ClientOption interface{ applyToClient(c *clientSettings) error }

// ServerOption configures a [Server].
type ServerOption interface{ applyToServer(s *serverSettings) error }

type clientSettings struct {
	detect   time.Duration
	connect  time.Duration
	check    bool
	service  string
	balancer string
}

type serverSettings struct {
	detect   time.Duration
	age      time.Duration
	grace    time.Duration
	lameDuck time.Duration
	every    time.Duration
	checks   []check
}

// check is a check of a component.
type check struct {
	component string
	run       func(ctx context.Context) error
	services  []string
}

type clientOption func(c *clientSettings) error

func (o clientOption) applyToClient(c *clientSettings) error { return o(c) }

type serverOption func(s *serverSettings) error

func (o serverOption) applyToServer(s *serverSettings) error { return o(s) }

// detectWithin applies to both.
type detectWithin time.Duration

func (d detectWithin) applyToClient(c *clientSettings) error {
	c.detect = time.Duration(d)
	return d.validate()
}

func (d detectWithin) applyToServer(s *serverSettings) error {
	s.detect = time.Duration(d)
	return d.validate()
}

func (d detectWithin) validate() error {
	if time.Duration(d) < minDetect {
		return fmt.Errorf("DetectWithin(%v): must be at least %v", time.Duration(d), minDetect)
	}
	return nil
}

// minDetect is the shortest time, because gRPC's clients ping at most every 10 s.
const minDetect = 12 * time.Second

// DetectWithin is the time within which a connection that has died without notice is closed. If no message arrives for two
// thirds of it, at least 10 s, a ping is sent. If there is no answer in the rest of it, the connection is closed. The
// default is 30 s. It must be at least 12 s, and should be the same at clients and servers.
func DetectWithin(d time.Duration) Option { return detectWithin(d) }

// ConnectWithin is how long an attempt to connect may take, and the longest pause before the next one, which gRPC varies
// by 20 %. A client then connects soon after an outage of any length; gRPC's own values are 20 s and two minutes. The
// default is 5 s.
func ConnectWithin(d time.Duration) ClientOption {
	return clientOption(func(c *clientSettings) error {
		if d < 100*time.Millisecond {
			return fmt.Errorf("ConnectWithin(%v): must be at least 100ms", d)
		}
		c.connect = d
		return nil
	})
}

// CheckService makes a client watch the health of a service, "package.Service", at each server, or of the whole server if
// the name is "", and use only servers that are SERVING. It sets the default service config of the connection; a config
// of yours that comes later replaces it. By default, a client does not check.
func CheckService(name string) ClientOption {
	return clientOption(func(c *clientSettings) error {
		if name != "" && !protoreflect.FullName(name).IsValid() {
			return fmt.Errorf("CheckService(%q): must be the name of a service, or empty", name)
		}
		c.check, c.service = true, name
		return nil
	})
}

// Balancer is the load-balancing policy of a client with [CheckService]. The default is round_robin; pick_first does not
// check.
func Balancer(name string) ClientOption {
	return clientOption(func(c *clientSettings) error {
		if name == "pick_first" || !protoreflect.Name(name).IsValid() {
			return fmt.Errorf("Balancer(%q): must be a policy that uses several servers", name)
		}
		c.balancer = name
		return nil
	})
}

// MaxConnectionAge is the age at which a server asks a client to open a new connection, and how long calls may still run
// on the old one. The default is 30 minutes, and 5 minutes for the calls. gRPC varies the age by 10 %.
func MaxConnectionAge(age, grace time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) error {
		if age <= 0 || grace <= 0 {
			return fmt.Errorf("MaxConnectionAge(%v, %v): must be positive", age, grace)
		}
		s.age, s.grace = age, grace
		return nil
	})
}

// LameDuck is how long a server that stops still accepts calls, while it says NOT_SERVING. It should be the time that
// load balancers take to notice. The default is 0, which is enough for clients with [CheckService], and for those that
// connect directly to each server.
func LameDuck(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) error {
		if d < 0 {
			return fmt.Errorf("LameDuck(%v): must not be negative", d)
		}
		s.lameDuck = d
		return nil
	})
}

// WithCheck checks a component, such as a store, from [Server.Register] to [Server.Stop], and reports its result; see
// [Server.Report]. A check may take as long as the time between two checks, [CheckEvery].
func WithCheck(component string, f func(ctx context.Context) error, services ...string) ServerOption {
	return serverOption(func(s *serverSettings) error {
		if component == "" || f == nil {
			return errors.New("WithCheck: the name is empty or the function nil")
		}
		s.checks = append(s.checks, check{component, f, services})
		return nil
	})
}

// CheckEvery is the time from one check of a component to the next. The default is 5 s.
func CheckEvery(d time.Duration) ServerOption {
	return serverOption(func(s *serverSettings) error {
		if d <= 0 {
			return fmt.Errorf("CheckEvery(%v): must be positive", d)
		}
		s.every = d
		return nil
	})
}
