package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// isNil reports whether an interface holds nothing, or a pointer of some type that
// is nil.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	value := reflect.ValueOf(v)
	return value.Kind() == reflect.Pointer && value.IsNil()
}

// nilOption is the error of an option that is nil. They are counted from 1.
func nilOption(i int) error { return fmt.Errorf("option %d is nil", i+1) }

// Check returns what in the client's settings is probably a mistake, joined:
//
//   - a method or service that a policy names and whose generated code is not linked in,
//   - a field of the service config that looks like one that gRPC knows, and is not,
//   - a policy that can never take effect, such as retries of a method that is declared
//     not idempotent,
//   - a budget that allows no extra attempt.
//
// None of them keeps a client from working, and a program may call methods without
// generated code on purpose, so that [NewClient] does not return them. Call Check in a
// test or at start-up.
func (c *Client) Check() error {
	var errs []error
	policies, _ := c.policy.(MethodPolicies)
	for _, from := range [...]struct {
		source   string
		policies MethodPolicies
	}{{"WithPolicy", policies}, {"WithServiceConfig", c.config.methods}} {
		for _, name := range slices.Sorted(maps.Keys(from.policies)) {
			if err := c.checkPolicy(name, from.policies[name]); err != nil {
				errs = append(errs, fmt.Errorf("%s: %q: %w", from.source, name, err))
			}
		}
	}
	for _, unknown := range c.config.unknown {
		errs = append(errs, fmt.Errorf("WithServiceConfig: %s", unknown))
	}
	if c.budget.Empty() {
		errs = append(errs, errors.New("WithBudget: it allows no extra attempt of any call"))
	}
	return errors.Join(errs...)
}

// checkPolicy checks the policy of a name as in [MethodPolicies].
func (c *Client) checkPolicy(name string, p Policy) error {
	if name == "" {
		return nil
	}
	service, method, _ := strings.Cut(name[1:], "/")
	d, _ := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	s, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return errors.New("no service of this name is linked in")
	}
	if method == "" {
		return nil
	}
	descriptor := s.Methods().ByName(protoreflect.Name(method))
	if descriptor == nil {
		return fmt.Errorf("the service has no method %s", method)
	}
	m := c.newMethod(name)
	whole := c.policyOf(m, nil, nil)
	var errs []error
	level := whole.Idempotency
	if level == Unspecified {
		level = m.level
	}
	if (p.Retry != nil && whole.attempts() > 1 || p.Hedge != nil) && level == NotIdempotent {
		errs = append(errs, errors.New("it retries or hedges a method that is declared not idempotent"))
	}
	if p.Hedge != nil && descriptor.IsStreamingClient() {
		errs = append(errs, errors.New("it hedges a method that streams requests, which is made once"))
	}
	if (p.KeyRequired || p.KeyField != "") && (descriptor.IsStreamingClient() || descriptor.IsStreamingServer()) {
		errs = append(errs, errors.New("it sets an idempotency key for a method that streams"))
	}
	if p.AttemptTimeout > 0 && whole.Timeout > 0 && p.AttemptTimeout >= whole.Timeout {
		errs = append(errs, fmt.Errorf("AttemptTimeout %v is not shorter than Timeout %v", p.AttemptTimeout, whole.Timeout))
	}
	return errors.Join(errs...)
}

// configFields are the fields of a service config that gRPC knows, by the last name
// of the path of the object that has them, without indices.
func configFields() map[string][]string {
	return map[string][]string{
		"$":               {"methodConfig", "retryThrottling", "loadBalancingConfig", "loadBalancingPolicy", "healthCheckConfig"},
		"methodConfig":    {"name", "timeout", "waitForReady", "retryPolicy", "hedgingPolicy", "maxRequestMessageBytes", "maxResponseMessageBytes"},
		"name":            {"service", "method"},
		"retryPolicy":     {"maxAttempts", "initialBackoff", "maxBackoff", "backoffMultiplier", "retryableStatusCodes", "perAttemptRecvTimeout"},
		"hedgingPolicy":   {"maxAttempts", "hedgingDelay", "nonFatalStatusCodes"},
		"retryThrottling": {"maxTokens", "tokenRatio"},
	}
}

// nearMisses returns the fields of a service config, at a path, that are nearly those
// that gRPC knows, and says which.
func nearMisses(path, kind string, v any) []string {
	var misses []string
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			misses = append(misses, nearMisses(fmt.Sprintf("%s[%d]", path, i), kind, item)...)
		}
	case map[string]any:
		known := configFields()[kind]
		for _, field := range slices.Sorted(maps.Keys(v)) {
			at := path + "." + field
			switch near := nearest(field, known); {
			case slices.Contains(known, field):
				misses = append(misses, nearMisses(at, field, v[field])...)
			case near != "":
				misses = append(misses, fmt.Sprintf("%s is unknown; is it %s?", at, near))
			}
		}
	}
	return misses
}

// nearest returns the name that a field is a misspelling of, or "" if there is none.
func nearest(field string, known []string) string {
	for _, name := range known {
		if spelling(field) == spelling(name) || distance(spelling(field), spelling(name)) <= max(2, len(name)/3) {
			return name
		}
	}
	return ""
}

// spelling returns a name without what spellings differ in: case, underscores, dashes.
func spelling(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return -1
		}
		return r
	}, strings.ToLower(name))
}

// distance returns how many letters must be inserted, deleted or replaced to get
// from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
