package main

import (
	"regexp"
	"strings"

	hopboundv1 "github.com/hopbound/hopbound/proto/hopbound/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// The values of fields of a method that is not declared.
const (
	unknown = "unknown"
	none    = "none"
)

const unary = "unary" // the kind of most methods

// The policies.
const (
	retry = "retry"
	hedge = "hedge"
)

// method is a method, and what is declared for it. The names of the fields are stable between releases.
type method struct {
	Method     string `json:"method"`               // such as /shop.v1.Orders/Get
	Kind       string `json:"kind"`                 // unary, server stream, client stream or bidi stream
	Declared   string `json:"declared"`             // the idempotency level, or unknown
	Policy     string `json:"policy"`               // such as "retry (service config)", or none
	CallsAre   string `json:"calls_are"`            // what happens to a call that fails
	Undeclared bool   `json:"undeclared"`           // false for the methods of gRPC's own services
	Suggestion string `json:"suggestion,omitempty"` // with -suggest
}

// inspect returns what is declared for a method.
func inspect(s *service, d *descriptorpb.MethodDescriptorProto, policies policies) method {
	m := method{Method: "/" + s.name + "/" + d.GetName(), Kind: kind(d), Declared: unknown, Policy: none}
	option, _ := proto.GetExtension(d.GetOptions(), hopboundv1.E_Method).(*hopboundv1.MethodPolicy)
	keys := option.GetIdempotency()
	if level := keys.GetLevel(); level != hopboundv1.IdempotencyPolicy_LEVEL_UNSPECIFIED {
		m.Declared = strings.TrimPrefix(level.String(), "LEVEL_")
	} else if level := d.GetOptions().GetIdempotencyLevel(); level != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN {
		m.Declared = level.String()
	}

	policy, source, once := policies.of(s.name, d.GetName()), " (service config)", false
	if policy == "" {
		source = " (proto option)"
		switch {
		case option.GetRetry() != nil:
			policy, once = retry, option.GetRetry().GetMaxAttempts() == 1
		case option.GetHedge() != nil:
			policy, once = hedge, option.GetHedge().GetMaxAttempts() == 1
		}
	}
	keyed := m.Kind == unary && (keys.GetKeyRequired() || keys.GetKeyField() != "" || keys.GetRetention() != nil || len(keys.GetFingerprint()) > 0)
	switch {
	case policy != "":
		m.Policy = policy + source
	case keyed:
		m.Policy = "key (proto option)"
	}
	m.Undeclared = m.Declared == unknown && m.Policy == none && !s.ownedByGRPC()

	safe := m.Declared == unknown && policy != "" || m.Declared == "IDEMPOTENT" || m.Declared == "NO_SIDE_EFFECTS"
	switch {
	case once:
		m.CallsAre = "made once: the policy allows one attempt"
	case policy == hedge && d.GetClientStreaming():
		m.CallsAre = "made once: a stream of requests is not hedged"
	case safe && policy == hedge:
		m.CallsAre = "hedged"
	case safe:
		m.CallsAre = "retried"
	case keyed && keys.GetKeyRequired():
		m.CallsAre = "retried with the idempotency key that each call has"
	case m.Kind == unary && !m.Undeclared && !s.ownedByGRPC():
		m.CallsAre = "retried only with an idempotency key"
	default:
		m.CallsAre = "not retried once a server may have seen them"
	}
	return m
}

func kind(d *descriptorpb.MethodDescriptorProto) string {
	switch {
	case d.GetClientStreaming() && d.GetServerStreaming():
		return "bidi stream"
	case d.GetClientStreaming():
		return "client stream"
	case d.GetServerStreaming():
		return "server stream"
	default:
		return unary
	}
}

// readOnly matches the names of methods that probably only read.
var readOnly = regexp.MustCompile(`^(Count|Describe|Fetch|Find|Get|List|Lookup|Query|Read|Search|Watch)([^a-z]|$)`)

// suggestion guesses the level of an undeclared method from its name, or returns "" if the name says nothing.
func suggestion(name string) string {
	if readOnly.MatchString(name) {
		return "NO_SIDE_EFFECTS?"
	}
	return ""
}
