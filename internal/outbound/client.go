package outbound

import (
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/hopbound/hopbound/budget"
	"github.com/hopbound/hopbound/deadline"
	"github.com/hopbound/hopbound/internal/cache"
	"github.com/hopbound/hopbound/internal/policy"
	"github.com/hopbound/hopbound/internal/telemetry"
	"github.com/hopbound/hopbound/internal/wire"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Source is a source of policies in code. If it is a [policy.ByName], the policies of methods never
// change.
type Source interface {
	ForMethod(fullMethod string) policy.Policy

	// Has reports whether a method has a policy under its own name.
	Has(fullMethod string) bool
}

// Config is the configuration of a [Client].
type Config struct {
	Telemetry     telemetry.Settings
	FoldAttempts  bool           // the span of a stats handler has the attributes of an attempt
	AttemptKind   trace.SpanKind // of the spans of attempts; unspecified if it depends on the connection
	Observe       bool           // the first mode of all methods
	Budget        *budget.Budget
	Policies      Source
	ServiceConfig policy.ServiceConfig
	CallBuffer    int // bytes of a stream that are kept for retries
	Reserve       time.Duration
	FixedReserve  bool // Reserve is used; otherwise the reserve is learned
	Strict        bool // a written retry policy does not make a call safe to repeat
}

// Client makes the outgoing calls of a process. It is safe for concurrent use.
type Client struct {
	Modes policy.Modes

	config    Config
	started   time.Time // from which monotonic times count
	clock     *deadline.Clock
	declared  policy.Declarations
	reserved  []string       // keys of metadata that attempts set themselves
	observed  *budget.Budget // takes the place of the budget in calls that are only observed
	methods   cache.Names[method]
	targets   *targets
	telemetry *telemetry.Client
	failures  recentFailures
}

// New returns a client, and the errors of the configuration, joined.
func New(config Config) (*Client, error) {
	c := &Client{config: config, started: time.Now(), clock: deadline.NewClock(rand.Uint64), targets: newTargets()}
	c.observed = config.Budget.Clone() // what an observed call would spend is not spent
	var errs [4]error
	if config.Observe {
		errs[0] = c.Modes.Set(true, nil)
	}
	c.telemetry, errs[1] = telemetry.NewClient(&c.config.Telemetry, config.AttemptKind, config.FoldAttempts)
	c.declared, errs[2] = policy.ReadDeclarations(protoregistry.GlobalFiles)
	errs[3] = c.observeBudget()
	c.reserved = append([]string{wire.ContextKey, previousAttemptsKey}, c.telemetry.Reserved()...)
	return c, errors.Join(errs[:]...)
}

// observeBudget lets metrics read the balances of the target budgets. The function that reads them
// does not refer to the client.
func (c *Client) observeBudget() error {
	normal, observed, targets := c.config.Budget, c.observed, c.targets
	return telemetry.ObserveBudget(&c.config.Telemetry, c, normal.Name(), func(yield func(*telemetry.Target, func(bool) float64)) {
		for _, t := range targets.all() {
			yield(t.telemetry, func(isObserved bool) float64 {
				if isObserved {
					return observed.Balance(t.name)
				}
				return normal.Balance(t.name)
			})
		}
	})
}

// mono returns a time on the monotonic clock of this client.
func (c *Client) mono(t time.Time) time.Duration { return t.Sub(c.started) }

// method is what a client knows of a method before a call.
type method struct {
	full      string // /service/method
	telemetry *telemetry.Method
	level     policy.Level
	declared  policy.Declaration
	config    policy.Policy // of the client's service config
	fixed     policy.Policy // of all sources but call options and the connection, if it never changes
}

func (c *Client) newMethod(fullMethod string) *method {
	descriptor := policy.FindMethod(fullMethod)
	byName, fixed := c.config.Policies.(policy.ByName)
	known := descriptor != nil || c.config.Policies.Has(fullMethod) || c.config.ServiceConfig.Methods.Has(fullMethod)
	m := &method{
		full:      fullMethod,
		telemetry: c.telemetry.NewMethod(strings.TrimPrefix(fullMethod, "/"), known),
		level:     policy.DeclaredLevel(descriptor),
		declared:  c.declared[fullMethod],
		config:    c.config.ServiceConfig.Methods.ForMethod(fullMethod),
	}
	if fixed {
		p := byName.ForMethod(fullMethod)
		m.fixed = policy.Merge(&p, &m.config, &m.declared.Policy)
	}
	return m
}

// policyOf returns the policy of a call. The argument own is the policy of its call options, and
// channel that of its connection's service config. Either may be nil.
func (c *Client) policyOf(m *method, own, channel *policy.Policy) policy.Policy {
	if _, fixed := c.config.Policies.(policy.ByName); fixed && own == nil && channel == nil {
		return m.fixed
	}
	p := c.config.Policies.ForMethod(m.full)
	return policy.Merge(own, &p, &m.config, channel, &m.declared.Policy)
}

// Resolve returns the policy of a method's calls without options, and the level that the method's
// descriptor declares.
func (c *Client) Resolve(fullMethod string) (policy.Policy, policy.Level) {
	m := c.newMethod(fullMethod)
	return c.policyOf(m, nil, nil), m.level
}
