package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hopbound/hopbound/internal/policy"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Check returns the probable mistakes in the client's settings, joined:
//
//   - a policy for a method or service whose generated code is not linked in,
//   - a field of the service config that is a likely misspelling of one that gRPC knows,
//   - a policy that can never take effect, such as retries of a method that is declared
//     not idempotent,
//   - a budget that allows no extra attempt.
//
// [NewClient] does not return these mistakes: a client works in spite of them, and a
// program may call methods without generated code on purpose. Call Check in a test or
// at start-up.
func (c *Client) Check() error {
	var errs []error
	for _, from := range [...]struct {
		source   string
		policies policy.ByName
	}{{"WithPolicy", methodPolicies(c.policies).byName()}, {"WithServiceConfig", c.config.Methods}} {
		for _, name := range slices.Sorted(maps.Keys(from.policies)) {
			if err := c.checkPolicy(name, from.policies[name]); err != nil {
				errs = append(errs, fmt.Errorf("%s: %q: %w", from.source, name, err))
			}
		}
	}
	for _, unknown := range c.config.Misspellings {
		errs = append(errs, fmt.Errorf("WithServiceConfig: %s", unknown))
	}
	if c.budget.Empty() {
		errs = append(errs, errors.New("WithBudget: it allows no extra attempt of any call"))
	}
	return errors.Join(errs...)
}

// checkPolicy checks the policy of a name, as in [MethodPolicies].
func (c *Client) checkPolicy(name string, p policy.Policy) error {
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
	whole, level := c.calls.Resolve(name)
	if whole.Idempotency != policy.Unspecified {
		level = whole.Idempotency
	}
	var errs []error
	if (p.Retry != nil && whole.Attempts() > 1 || p.Hedge != nil) && level == policy.NotIdempotent {
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
