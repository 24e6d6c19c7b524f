package interceptors

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// serviceConfig is what a service config says that is for this package. The
// zero value says nothing.
type serviceConfig struct {
	methods  MethodPolicies
	throttle *throttleConfig
	unknown  []string // fields that are nearly those that gRPC knows
}

// throttleConfig is gRFC A6's retryThrottling, in thousandths of a token.
type throttleConfig struct{ maxTokens, tokenRatio int }

// mostConfigured is the most attempts that a service config may ask for. More
// is taken for that, and is no error (gRFC A6).
const mostConfigured = 5

// parseServiceConfig reads a service config, and returns all that is wrong with
// it.
func parseServiceConfig(text string) (serviceConfig, error) {
	var r configReader
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var whole any
	if err := dec.Decode(&whole); err != nil {
		return serviceConfig{}, fmt.Errorf("no JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return serviceConfig{}, errors.New("no JSON: something follows the value")
	}
	var c serviceConfig
	if o, ok := r.object("$", whole); ok {
		c.methods = r.methodConfigs(o)
		c.throttle = r.throttling(o)
		c.unknown = nearMisses("$", "$", o)
	}
	if err := errors.Join(r.errs...); err != nil {
		return serviceConfig{}, err
	}
	return c, nil
}

// configReader reads values out of JSON and collects what is wrong with them.
// A path names a value as in "$.methodConfig[0].timeout".
type configReader struct{ errs []error }

func (r *configReader) failf(path, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// object and list return a value as what they are named for. Null counts as a
// value that is not there; in an array, item does not take it for that.
func (r *configReader) object(path string, v any) (map[string]any, bool) {
	o, ok := v.(map[string]any)
	if !ok && v != nil {
		r.failf(path, "must be an object")
	}
	return o, ok
}

func (r *configReader) item(path string, v any) (map[string]any, bool) {
	if v == nil {
		r.failf(path, "must be an object")
	}
	return r.object(path, v)
}

func (r *configReader) list(path string, v any) ([]any, bool) {
	l, ok := v.([]any)
	if !ok && v != nil {
		r.failf(path, "must be an array")
	}
	return l, ok
}

func (r *configReader) methodConfigs(o map[string]any) MethodPolicies {
	const path = "$.methodConfig"
	policies := MethodPolicies{}
	configs, _ := r.list(path, o["methodConfig"])
	for i, v := range configs {
		at := fmt.Sprintf("%s[%d]", path, i)
		m, ok := r.item(at, v)
		if !ok {
			continue
		}
		policy := r.methodConfig(at, m)
		for _, name := range r.names(at+".name", m["name"]) {
			if _, twice := policies[name.method]; twice {
				r.failf(name.path, "names what another methodConfig names")
			}
			policies[name.method] = policy
		}
	}
	return policies
}

type configName struct{ path, method string }

// names returns the methods that a methodConfig is for, as in [MethodPolicies].
func (r *configReader) names(path string, v any) []configName {
	var names []configName
	list, _ := r.list(path, v)
	for i, v := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		o, ok := r.item(at, v)
		if !ok {
			continue
		}
		service, method := r.text(at+".service", o["service"]), r.text(at+".method", o["method"])
		switch {
		case service == "" && method == "":
			names = append(names, configName{at, ""})
		case service == "":
			r.failf(at, "has a method but no service")
		case strings.Contains(service, "/") || strings.Contains(method, "/"):
			r.failf(at, "must not have a slash in it")
		default:
			names = append(names, configName{at, "/" + service + "/" + method})
		}
	}
	return names
}

func (r *configReader) text(path string, v any) string {
	s, ok := v.(string)
	if !ok && v != nil {
		r.failf(path, "must be a string")
	}
	return s
}

func (r *configReader) methodConfig(path string, o map[string]any) Policy {
	var p Policy
	if v := o["timeout"]; v != nil {
		p.Timeout = r.duration(path+".timeout", v)
		if p.Timeout == 0 { // valid, and no call can keep to it
			p.Timeout = 1
		}
	}
	if v := o["waitForReady"]; v != nil {
		wait, ok := v.(bool)
		if !ok {
			r.failf(path+".waitForReady", "must be true or false")
		}
		p.WaitForReady = wait
	}
	for _, size := range []string{"maxRequestMessageBytes", "maxResponseMessageBytes"} {
		if v := o[size]; v != nil {
			r.size(path+"."+size, v)
		}
	}
	if retry, ok := r.object(path+".retryPolicy", o["retryPolicy"]); ok {
		p.Retry = r.retryPolicy(path+".retryPolicy", retry)
	}
	if hedge, ok := r.object(path+".hedgingPolicy", o["hedgingPolicy"]); ok {
		p.Hedge = r.hedgingPolicy(path+".hedgingPolicy", hedge)
		if p.Retry != nil {
			r.failf(path, "has both retryPolicy and hedgingPolicy, which exclude each other")
		}
	}
	return p
}

func (r *configReader) retryPolicy(path string, o map[string]any) *RetryPolicy {
	p := &RetryPolicy{
		MaxAttempts: r.maxAttempts(path+".maxAttempts", o["maxAttempts"]),
		Backoff: Backoff{
			Base:       r.backoff(path+".initialBackoff", o["initialBackoff"]),
			Max:        r.backoff(path+".maxBackoff", o["maxBackoff"]),
			Multiplier: r.positive(path+".backoffMultiplier", o["backoffMultiplier"]),
		},
	}
	p.Backoff.Base = min(p.Backoff.Base, p.Backoff.Max)
	if v := o["retryableStatusCodes"]; v == nil {
		r.failf(path+".retryableStatusCodes", "is required")
	} else if p.Codes = r.codes(path+".retryableStatusCodes", v); len(p.Codes) == 0 {
		if list, ok := v.([]any); ok && len(list) == 0 {
			r.failf(path+".retryableStatusCodes", "must not be empty")
		}
	}
	return p
}

func (r *configReader) hedgingPolicy(path string, o map[string]any) *HedgePolicy {
	p := &HedgePolicy{
		MaxAttempts: r.maxAttempts(path+".maxAttempts", o["maxAttempts"]),
		NonFatal:    []codes.Code{},
	}
	if v := o["hedgingDelay"]; v != nil {
		p.Delay = r.duration(path+".hedgingDelay", v)
	}
	if v := o["nonFatalStatusCodes"]; v != nil {
		p.NonFatal = r.codes(path+".nonFatalStatusCodes", v)
	}
	return p
}

func (r *configReader) throttling(o map[string]any) *throttleConfig {
	const path = "$.retryThrottling"
	t, ok := r.object(path, o["retryThrottling"])
	if !ok {
		return nil
	}
	most, ok := r.integer(path+".maxTokens", t["maxTokens"])
	if ok && (most <= 0 || most > 1000) {
		r.failf(path+".maxTokens", "must be more than 0 and at most 1000")
	}
	ratio := r.positive(path+".tokenRatio", t["tokenRatio"])
	// Decimal places beyond three are ignored, and a success cannot earn more than
	// there may be.
	return &throttleConfig{maxTokens: int(most) * 1000, tokenRatio: int(min(math.Floor(ratio*1000+1e-9), 1000*1000))}
}

// maxAttempts reads a number of attempts, which is required, more than 1, and
// at most 5 whatever it says.
func (r *configReader) maxAttempts(path string, v any) int {
	n, ok := r.integer(path, v)
	if ok && n <= 1 {
		r.failf(path, "must be more than 1")
	}
	return int(min(n, mostConfigured))
}

// integer reads a whole number, which is required.
func (r *configReader) integer(path string, v any) (int64, bool) {
	if v == nil {
		r.failf(path, "is required")
		return 0, false
	}
	f, ok := r.number(path, v)
	if !ok {
		return 0, false
	}
	if f != math.Trunc(f) {
		r.failf(path, "must be a whole number")
		return 0, false
	}
	return int64(max(-1e15, min(f, 1e15))), true
}

// size reads a number of bytes, which is gRPC's to obey. JSON of protobuf has
// such numbers as strings too.
func (r *configReader) size(path string, v any) {
	if s, ok := v.(string); ok {
		v = json.Number(s)
	}
	if n, ok := r.integer(path, v); ok && n < 0 {
		r.failf(path, "must not be less than 0")
	}
}

// positive reads a number that is required, and more than nothing.
func (r *configReader) positive(path string, v any) float64 {
	if v == nil {
		r.failf(path, "is required")
		return 0
	}
	f, ok := r.number(path, v)
	if ok && f <= 0 {
		r.failf(path, "must be more than 0")
	}
	return f
}

func (r *configReader) number(path string, v any) (float64, bool) {
	n, ok := v.(json.Number)
	if !ok {
		r.failf(path, "must be a number")
		return 0, false
	}
	f, err := n.Float64()
	if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
		r.failf(path, "must be a number, and no larger than one can be")
		return 0, false
	}
	return f, true
}

// backoff reads a duration that is required, and more than nothing.
func (r *configReader) backoff(path string, v any) time.Duration {
	if v == nil {
		r.failf(path, "is required")
		return 0
	}
	before := len(r.errs)
	d := r.duration(path, v)
	if d == 0 && len(r.errs) == before {
		r.failf(path, "must be more than 0s")
	}
	return d
}

// duration reads a duration as the JSON of protobuf has it: seconds in decimal
// with up to nine places, and an "s".
func (r *configReader) duration(path string, v any) time.Duration {
	s, ok := v.(string)
	if !ok {
		r.failf(path, "must be a duration in a string, such as \"1.5s\"")
		return 0
	}
	d, err := parseDuration(s)
	if err != nil {
		r.failf(path, "%q %v", s, err)
	}
	return d
}

func parseDuration(s string) (time.Duration, error) {
	const most = 315_576_000_000 // seconds in a duration of protobuf
	number, ok := strings.CutSuffix(s, "s")
	if !ok {
		return 0, errors.New("must end in \"s\" for seconds")
	}
	number, negative := strings.CutPrefix(number, "-")
	whole, fraction, _ := strings.Cut(number, ".")
	digits := func(s string) bool { return strings.Trim(s, "0123456789") == "" }
	if negative && strings.Trim(whole+fraction, "0") != "" && digits(whole+fraction) {
		return 0, errors.New("must not be less than 0s")
	}
	if whole+fraction == "" || !digits(whole) || !digits(fraction) || len(fraction) > 9 || len(whole) > 1 && whole[0] == '0' {
		return 0, errors.New("must be seconds in decimal, with up to nine places")
	}
	var seconds, nanos int64
	if whole != "" {
		var err error
		if seconds, err = strconv.ParseInt(whole, 10, 64); err != nil || seconds > most {
			return 0, fmt.Errorf("must be at most %d s", most)
		}
	}
	if fraction != "" {
		nanos, _ = strconv.ParseInt((fraction + "00000000")[:9], 10, 64) // nine digits
	}
	if seconds >= math.MaxInt64/int64(time.Second) {
		return math.MaxInt64, nil
	}
	return time.Duration(seconds)*time.Second + time.Duration(nanos), nil
}

// codes reads status codes, by number or by name in either case. It returns nil
// if the value is no list of them.
func (r *configReader) codes(path string, v any) []codes.Code {
	list, ok := r.list(path, v)
	if !ok {
		return nil
	}
	read := make([]codes.Code, 0, len(list))
	for i, v := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		code, ok := parseCode(v)
		switch {
		case !ok:
			r.failf(at, "must be the name or the number of a status code of gRPC")
		case !slices.Contains(read, code):
			read = append(read, code)
		}
	}
	return read
}

func parseCode(v any) (codes.Code, bool) {
	var code codes.Code
	switch v := v.(type) {
	case string:
		upper := strings.Map(func(r rune) rune {
			if 'a' <= r && r <= 'z' { // and nothing that only looks like it
				r -= 'a' - 'A'
			}
			return r
		}, v)
		return code, code.UnmarshalJSON([]byte(strconv.Quote(upper))) == nil
	case json.Number:
		f, err := v.Float64()
		if err != nil || f != math.Trunc(f) || f < 0 || f > float64(codes.Unauthenticated) {
			return 0, false
		}
		return codes.Code(f), true
	default:
		return 0, false
	}
}
