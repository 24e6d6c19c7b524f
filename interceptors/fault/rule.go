package fault

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// Rule selects calls and says what happens to them.
type Rule struct {
	// Name names the rule in traces, metrics and error messages. It must not be empty.
	Name string

	// Methods are the methods that are selected: "/package.Service/Method", or "/package.Service/*". If there is none,
	// all methods are.
	Methods []string

	// Share is the share of these calls that is selected, above 0 and at most 1. It must be set.
	Share float64

	// Guard, if set, selects only calls that carry this value under the metadata key [Header].
	Guard string

	// Latency is added before the call, or before the handler runs, and a random part of Jitter with it. A wait ends
	// with the context of the call.
	Latency, Jitter time.Duration

	// Code, if it is not OK, is the failure of the call, which is not sent, or whose handler does not run. With
	// LoseReply it is the failure after the reply is lost.
	Code codes.Code

	// Message, if set, precedes "injected by fault NAME" in the message of failures.
	Message string

	// LoseReply lets the call reach its server and its handler run. If the call succeeds, its reply is discarded, and
	// the call fails with Code, or with UNAVAILABLE if that is OK. At a client, the trailer is discarded too, as if the
	// connection had broken.
	LoseReply bool

	// CutAfter, if positive, ends a stream with UNAVAILABLE after so many response messages.
	CutAfter int

	// ClockSkew makes the clock with which a client dates its attempts wrong by this much, which may be negative. It
	// has no effect at a server.
	ClockSkew time.Duration
}

func (r *Rule) validate() error {
	var errs []error
	if r.Name == "" {
		errs = append(errs, errors.New("it has no name"))
	}
	for _, m := range r.Methods {
		if service, method, ok := strings.Cut(strings.TrimPrefix(m, "/"), "/"); !ok || m[0] != '/' || service == "" || method == "" {
			errs = append(errs, fmt.Errorf("the method %q is not \"/package.Service/Method\" or \"/package.Service/*\"", m))
		}
	}
	if !(r.Share > 0 && r.Share <= 1) {
		errs = append(errs, fmt.Errorf("the share %v must be above 0 and at most 1", r.Share))
	}
	if r.Latency < 0 || r.Jitter < 0 || r.CutAfter < 0 {
		errs = append(errs, errors.New("its Latency, Jitter and CutAfter must not be negative"))
	}
	if r.Code > codes.Unauthenticated {
		errs = append(errs, fmt.Errorf("there is no code %d", r.Code))
	}
	if r.Latency == 0 && r.Jitter == 0 && r.Code == codes.OK && !r.LoseReply && r.CutAfter == 0 && r.ClockSkew == 0 {
		errs = append(errs, errors.New("it has no fault"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the rule %q: %w", r.Name, err)
	}
	return nil
}

func (r *Rule) covers(method string) bool {
	return len(r.Methods) == 0 || slices.ContainsFunc(r.Methods, func(m string) bool {
		service, all := strings.CutSuffix(m, "*")
		return m == method || all && strings.HasPrefix(method, service)
	})
}

func (r *Rule) guarded(guards []string) bool {
	return r.Guard == "" || len(guards) == 1 && subtle.ConstantTimeCompare([]byte(guards[0]), []byte(r.Guard)) == 1
}

// selected is a rule that has selected a call.
type selected struct {
	rule   *Rule
	faults *Faults
}

type faults []selected

// loses returns the rule that loses the reply, or nil.
func (f faults) loses() *selected { return f.find(func(r *Rule) bool { return r.LoseReply }) }

// cuts returns the rule after which a stream breaks off first, or nil.
func (f faults) cuts() *selected {
	cut := f.find(func(r *Rule) bool { return r.CutAfter > 0 })
	for i := range f {
		if n := f[i].rule.CutAfter; n > 0 && n < cut.rule.CutAfter {
			cut = &f[i]
		}
	}
	return cut
}

func (f faults) find(has func(*Rule) bool) *selected {
	for i := range f {
		if has(f[i].rule) {
			return &f[i]
		}
	}
	return nil
}

// choose returns the rules that select a call.
func (f *Faults) choose(method string, guards []string) (chosen faults) {
	rules := *f.rules.Load()
	for i := range rules {
		if r := &rules[i]; r.covers(method) && r.guarded(guards) && f.chance() < r.Share {
			chosen = append(chosen, selected{r, f})
		}
	}
	return chosen
}

// chance returns a random number from 0 up to 1.
func (f *Faults) chance() float64 {
	if f.random == nil {
		return rand.Float64() //nolint:gosec // faults are no secret
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.Float64()
}
