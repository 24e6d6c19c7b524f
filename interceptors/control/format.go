package control

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hopbound/hopbound/interceptors"
	"go.yaml.in/yaml/v4"
)

var (
	modeWords   = map[string]interceptors.Mode{"enforce": interceptors.Enforce, "observe": interceptors.Observe}
	jitterWords = map[string]interceptors.Jitter{
		"full": interceptors.FullJitter, "equal": interceptors.EqualJitter,
		"decorrelated": interceptors.DecorrelatedJitter, "none": interceptors.NoJitter,
	}
	levelWords = map[string]interceptors.IdempotencyLevel{
		"NOT_IDEMPOTENT": interceptors.NotIdempotent, "IDEMPOTENT": interceptors.Idempotent,
		"NO_SIDE_EFFECTS": interceptors.NoSideEffects,
	}
)

const (
	maxVersion = 100 // characters; a version is an attribute of a metric
	maxName    = 500 // bytes
)

// config is the content of a file.
type config struct {
	version        string
	policies       interceptors.MethodPolicies
	client, server modes
}

// modes are the modes of one side.
type modes struct {
	all    interceptors.Mode
	byName map[string]interceptors.Mode
}

// parse reads a text. It returns the first 100 errors, joined, each with the name of the file, the line and the path of the field.
func parse(name string, text []byte) (config, error) {
	r := &reader{name: name, lines: map[string]int{}, config: config{
		policies: interceptors.MethodPolicies{},
		client:   modes{byName: map[string]interceptors.Mode{}}, server: modes{byName: map[string]interceptors.Mode{}},
	}}
	if root := r.document(text); root != nil {
		r.file(place{root, ""})
	}
	if err := errors.Join(r.errs...); err != nil {
		return config{}, err
	}
	if r.config.version == "" {
		r.config.version = hash(text)
	}
	return r.config, nil
}

func (r *reader) file(at place) {
	lines := map[string]int{} // of the names of methods
	r.object(at, fields{
		"$schema": r.text(new(string)), // for editors of JSON
		"version": r.version(),
		"mode":    r.mode(&r.config.client.all, &r.config.server.all),
		"methods": func(at place) { r.list(at, func(at place) { r.method(at, lines) }) },
	})
}

// version reads any scalar as it is written, because the version 1.10 is not 1.1. It is also the value of a header.
func (r *reader) version() value {
	must := fmt.Sprintf("a printable text of 1 to %d characters", maxVersion)
	return scalar(r, &r.config.version, must, func(n *yaml.Node) (string, bool) {
		isPrintable := !strings.ContainsFunc(n.Value, func(c rune) bool { return !unicode.IsPrint(c) })
		return n.Value, n.Value != "" && utf8.RuneCountInString(n.Value) <= maxVersion && isPrintable && n.ShortTag() != "!!null" && n.ShortTag() != "!!bool"
	})
}

// mode reads the mode of both sides, or an object with the mode of each. A side that is not set is not changed.
func (r *reader) mode(client, server *interceptors.Mode) value {
	return func(at place) {
		if at.Kind == yaml.MappingNode {
			r.object(at, fields{"client": word(r, client, modeWords), "server": word(r, server, modeWords)})
			return
		}
		word(r, client, modeWords)(at)
		*server = *client
	}
}

// method reads an entry of methods. Lines has the lines of the names of the entries before.
func (r *reader) method(at place, lines map[string]int) {
	const inherited interceptors.Mode = -1
	client, server := inherited, inherited
	var p interceptors.Policy
	var name string
	var named *yaml.Node
	entry := r.policy(&p)
	entry["mode"] = r.mode(&client, &server)
	entry["name"] = func(at place) { named = at.Node; r.text(&name)(at) }
	r.object(at, entry)
	if named == nil || !isString(named) {
		if named == nil && at.Kind == yaml.MappingNode {
			r.failf(at.Line, at.path, "has no name")
		}
		return
	}
	if len(name) > maxName {
		r.failf(named.Line, at.path+".name", "has more than %d bytes", maxName)
		return
	}
	hasPolicy, hasMode := p != interceptors.Policy{}, client != inherited || server != inherited
	switch {
	case lines[name] > 0:
		r.failf(named.Line, at.path+".name", "%q is also the name of the entry in line %d", name, lines[name])
	case hasMode && name == "":
		r.failf(named.Line, at.path+".mode", "the mode of all methods is the field mode of the file")
	case len(at.Content) == 2: // the entry has only its name
		r.failf(named.Line, at.path, "%q has neither a policy nor a mode", name)
	case name == "" && p.KeyField != "":
		r.failf(r.lines[at.path+".keyField"], at.path+".keyField", "must not be set for all methods: calls whose request has no such field would fail")
	}
	r.validate(named.Line, at.path, name, p)
	lines[name] = named.Line
	if hasPolicy {
		r.config.policies[name] = p
	}
	if client != inherited {
		r.config.client.byName[name] = client
	}
	if server != inherited {
		r.config.server.byName[name] = server
	}
}

// aboutField matches an error that begins with the name of a field of a policy, as package policy writes it.
var (
	aboutField = regexp.MustCompile(`^field ([\w.]+) (.*)`)
	capital    = regexp.MustCompile(`\b[A-Z]`)
)

// validate reports the errors of [interceptors.MethodPolicies.Validate]. An error that begins with a field, such as
// Retry.MaxAttempts, is reported at the line of that field, and any other at the line of the entry.
func (r *reader) validate(line int, path, name string, p interceptors.Policy) {
	err := (interceptors.MethodPolicies{name: p}).Validate()
	if err == nil {
		return
	}
	for text := range strings.SplitSeq(strings.TrimPrefix(err.Error(), fmt.Sprintf("policy %q: ", name)), "\n") {
		if m := aboutField.FindStringSubmatch(text); m != nil {
			field := path + capital.ReplaceAllStringFunc("."+m[1], strings.ToLower)
			if at := r.lines[field]; at > 0 {
				r.failf(at, field, "%s", m[2])
				continue
			}
		}
		r.failf(line, path, "policy %q: %s", name, text)
	}
}

// policy returns the fields of a policy.
func (r *reader) policy(p *interceptors.Policy) fields {
	return fields{
		"timeout":        r.timeout(&p.Timeout),
		"attemptTimeout": r.duration(&p.AttemptTimeout, 1, "shared", interceptors.AttemptTimeoutShared),
		"retry":          func(at place) { p.Retry = r.retry(at) },
		"hedge":          func(at place) { p.Hedge = r.hedge(at) },
		"idempotency":    word(r, &p.Idempotency, levelWords),
		"keyRequired":    r.boolean(&p.KeyRequired),
		"keyField":       r.text(&p.KeyField),
		"waitForReady":   r.boolean(&p.WaitForReady),
	}
}

func (r *reader) retry(at place) *interceptors.RetryPolicy {
	p := &interceptors.RetryPolicy{}
	r.object(at, fields{
		"maxAttempts": r.integer(&p.MaxAttempts),
		"codes": func(at place) {
			if r.codes(&p.Codes)(at); at.Kind == yaml.SequenceNode && len(at.Content) == 0 {
				r.failf(at.Line, at.path, "must not be empty")
			}
		},
		"backoff": func(at place) {
			r.object(at, fields{
				"base":       r.timeout(&p.Backoff.Base),
				"max":        r.timeout(&p.Backoff.Max),
				"multiplier": r.number(&p.Backoff.Multiplier),
				"jitter":     word(r, &p.Backoff.Jitter, jitterWords),
			})
		},
	})
	return p
}

func (r *reader) hedge(at place) *interceptors.HedgePolicy {
	p := &interceptors.HedgePolicy{}
	r.object(at, fields{
		"maxAttempts": r.integer(&p.MaxAttempts),
		"delay":       r.duration(&p.Delay, 0, "p95", interceptors.HedgeAtP95),
		"nonFatal":    r.codes(&p.NonFatal),
	})
	return p
}
