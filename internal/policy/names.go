package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ByName maps names to policies. A name is a method ("/shop.v1.Orders/Get"), a service
// ("/shop.v1.Orders/") for those of its methods that have no entry, or empty for all other
// methods.
type ByName map[string]Policy

// ForMethod returns the policy under the most specific name.
func (m ByName) ForMethod(fullMethod string) Policy {
	if p, ok := Lookup(m, fullMethod); ok {
		return p
	}
	return m[""]
}

// Has reports whether a method has a policy under its own name.
func (m ByName) Has(fullMethod string) bool {
	_, ok := m[fullMethod]
	return ok
}

// Validate returns the errors of the names and policies, joined.
func (m ByName) Validate() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m)) {
		p := m[name]
		if err := errors.Join(ValidateName(name), p.Validate()); err != nil {
			errs = append(errs, fmt.Errorf("policy %q: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Lookup returns the value of a method under its own name or, if there is none, under the name
// of its service.
func Lookup[V any](m map[string]V, fullMethod string) (v V, ok bool) {
	if v, ok = m[fullMethod]; !ok {
		v, ok = m[fullMethod[:strings.LastIndexByte(fullMethod, '/')+1]]
	}
	return v, ok
}

// ValidateName checks a name of one method, of a service's methods, or of all methods.
func ValidateName(name string) error {
	if name != "" && (len(name) < 3 || name[0] != '/' || name[1] == '/' || strings.Count(name, "/") != 2) {
		return errors.New("the name must be /service/method, /service/ or empty")
	}
	const methods = "/hopbound.v1.HTTPService/"
	if strings.HasPrefix(name, methods) && name != methods && FindMethod(name) == nil {
		return errors.New("HTTP has no method of this name: names are those of hopbound.v1.HTTPService, such as Get")
	}
	return nil
}
