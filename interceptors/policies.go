package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Policies tells how the calls of each method are made. ForMethod takes a full
// method name, such as "/shop.v1.Orders/Get", and must be safe for concurrent
// use. It is asked once for each call; what it returns must not be changed
// afterwards.
type Policies interface {
	ForMethod(fullMethod string) Policy
}

// MethodPolicies are the policies of methods by name: of one method
// ("/shop.v1.Orders/Get"), of all other methods of a service
// ("/shop.v1.Orders/"), or of all others (""). A method that none of the three
// names has the zero [Policy].
type MethodPolicies map[string]Policy

// ForMethod returns the policy under the most specific name.
func (m MethodPolicies) ForMethod(fullMethod string) Policy {
	if p, ok := named(m, fullMethod); ok {
		return p
	}
	return m[""]
}

// named returns what is set for a method by its own name, or else by that of its service.
func named[V any](m map[string]V, fullMethod string) (v V, ok bool) {
	if v, ok = m[fullMethod]; !ok {
		v, ok = m[fullMethod[:strings.LastIndexByte(fullMethod, '/')+1]]
	}
	return v, ok
}

// names reports whether a method has a policy under its own name.
func (m MethodPolicies) names(fullMethod string) bool {
	_, ok := m[fullMethod]
	return ok
}

func (m MethodPolicies) validate() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m)) {
		p := m[name]
		if err := validateMethodName(name); err != nil {
			errs = append(errs, fmt.Errorf("policy %q: %w", name, err))
		}
		if err := p.validate(); err != nil {
			errs = append(errs, fmt.Errorf("policy %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// validateMethodName checks a name of one method, of a service's methods, or of all.
func validateMethodName(name string) error {
	if name != "" && (len(name) < 3 || name[0] != '/' || name[1] == '/' || strings.Count(name, "/") != 2) {
		return errors.New("the name must be /service/method, /service/ or empty")
	}
	return nil
}

// resolve returns the policy of a call out of those of its sources, of which
// the first weighs most and nil is none. Each field is that of the first source
// that sets it; Retry and Hedge are one field, since they exclude each other.
func resolve(sources ...*Policy) Policy {
	var p Policy
	for _, s := range sources {
		if s == nil {
			continue
		}
		if p.Timeout == 0 {
			p.Timeout = s.Timeout
		}
		if p.AttemptTimeout == 0 {
			p.AttemptTimeout = s.AttemptTimeout
		}
		if p.Retry == nil && p.Hedge == nil {
			p.Retry, p.Hedge = s.Retry, s.Hedge
		}
		if p.Idempotency == Unspecified {
			p.Idempotency = s.Idempotency
		}
		if p.KeyField == "" {
			p.KeyField = s.KeyField
		}
		p.WaitForReady = p.WaitForReady || s.WaitForReady
		p.KeyRequired = p.KeyRequired || s.KeyRequired
	}
	return p
}

// policyOf returns the policy of a call of a method. The policy among its call
// options weighs most; channel is that of its connection's service config. Either may
// be nil.
func (c *Client) policyOf(m *method, own, channel *Policy) Policy {
	if _, fixed := c.policy.(MethodPolicies); fixed && own == nil && channel == nil {
		return m.policy
	}
	literal := c.policy.ForMethod(m.full)
	return resolve(own, &literal, &m.configured, channel, &m.declared.policy)
}
