package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// Modes says for which methods calls are only observed. It can change while calls are made. A call
// reads its mode once, when it starts, and takes no lock to read it. The zero value observes
// nothing. Modes is safe for concurrent use.
type Modes struct {
	mu    sync.Mutex                // held while table is replaced
	table atomic.Pointer[modeTable] // nil if nothing is observed; what it points to never changes
}

// modeTable is the mode of all methods, and that of methods and services by name, as in
// [ByName].
type modeTable struct {
	observe bool
	byName  map[string]bool
}

// Observes reports whether a call of a method that starts now is only observed.
func (m *Modes) Observes(fullMethod string) bool {
	t := m.table.Load()
	if t == nil {
		return false
	}
	if len(t.byName) > 0 {
		if observe, ok := Lookup(t.byName, fullMethod); ok {
			return observe
		}
	}
	return t.observe
}

// Set changes the mode of the named methods. If names is nil, it changes the mode of all methods
// and forgets what was set by name. If a name is invalid, it returns an error and changes nothing.
func (m *Modes) Set(observe bool, names []string) error {
	if names != nil && len(names) == 0 {
		return errors.New("the list of methods is empty")
	}
	if err := validateModeNames(names); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next := &modeTable{byName: map[string]bool{}}
	if last := m.table.Load(); names == nil {
		next.observe = observe
	} else if last != nil {
		next.observe = last.observe
		maps.Copy(next.byName, last.byName)
	}
	for _, name := range names {
		next.byName[name] = observe
	}
	m.table.Store(next)
	return nil
}

// Replace sets the mode of all methods, and those of methods and services by name, and forgets what
// was set before. If a name is invalid, it returns an error and changes nothing.
func (m *Modes) Replace(observe bool, byName map[string]bool) error {
	if err := validateModeNames(slices.Sorted(maps.Keys(byName))); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table.Store(&modeTable{observe: observe, byName: maps.Clone(byName)})
	return nil
}

func validateModeNames(names []string) error {
	var errs []error
	for _, name := range names {
		if err := ValidateName(name); err != nil || name == "" {
			errs = append(errs, fmt.Errorf("%q: the name must be /service/method or /service/", name))
		}
	}
	return errors.Join(errs...)
}
