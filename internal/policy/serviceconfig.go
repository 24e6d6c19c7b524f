package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
)

// ServiceConfig is the part of a gRPC service config that Hopbound uses.
type ServiceConfig struct {
	Methods      ByName
	Throttle     *Throttle
	Misspellings []string // unknown fields that look like known ones
}

// Throttle is the retryThrottling of gRFC A6, in thousandths of a token.
type Throttle struct{ MaxTokens, TokenRatio int }

// MaxConfigured is the largest number of attempts that a service config may ask for. A larger
// number is no error and counts as this one (gRFC A6).
const MaxConfigured = 5

// The JSON of a service config. An optional field that is null is not set.
type (
	configJSON struct {
		MethodConfig    field[[]field[methodJSON]] `json:"methodConfig"`
		RetryThrottling field[throttleJSON]        `json:"retryThrottling"`
	}
	methodJSON struct {
		Name         field[[]field[nameJSON]] `json:"name"`
		Timeout      field[durationJSON]      `json:"timeout"`
		WaitForReady field[bool]              `json:"waitForReady"`
		MaxRequest   field[sizeJSON]          `json:"maxRequestMessageBytes"`
		MaxResponse  field[sizeJSON]          `json:"maxResponseMessageBytes"`
		Retry        field[retryJSON]         `json:"retryPolicy"`
		Hedge        field[hedgeJSON]         `json:"hedgingPolicy"`
	}
	nameJSON struct {
		Service field[string] `json:"service"`
		Method  field[string] `json:"method"`
	}
	retryJSON struct {
		MaxAttempts       field[float64]           `json:"maxAttempts"`
		InitialBackoff    field[durationJSON]      `json:"initialBackoff"`
		MaxBackoff        field[durationJSON]      `json:"maxBackoff"`
		BackoffMultiplier field[float64]           `json:"backoffMultiplier"`
		Codes             field[[]field[codeJSON]] `json:"retryableStatusCodes"`
	}
	hedgeJSON struct {
		MaxAttempts field[float64]           `json:"maxAttempts"`
		Delay       field[durationJSON]      `json:"hedgingDelay"`
		NonFatal    field[[]field[codeJSON]] `json:"nonFatalStatusCodes"`
	}
	throttleJSON struct {
		MaxTokens  field[float64] `json:"maxTokens"`
		TokenRatio field[float64] `json:"tokenRatio"`
	}
)

// field is a value that may be absent or invalid. It keeps its error, so that one pass finds the
// errors of all fields.
type field[T any] struct {
	set   bool
	value T
	err   error
}

func (f *field[T]) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	f.set = true
	f.err = json.Unmarshal(data, &f.value)
	if wrongType := (*json.UnmarshalTypeError)(nil); errors.As(f.err, &wrongType) {
		f.err = fmt.Errorf("must be %s", kindOf(f.value))
	}
	return nil
}

// kindOf names the kind of JSON value that v is decoded from.
func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case float64:
		return "a number"
	case bool:
		return "true or false"
	case []field[methodJSON], []field[nameJSON], []field[codeJSON]:
		return "an array"
	default:
		return "an object"
	}
}

// durationJSON is a duration in the JSON of protobuf: "1.5s".
type durationJSON time.Duration

func (d *durationJSON) UnmarshalJSON(data []byte) error {
	var read durationpb.Duration
	if err := protojson.Unmarshal(data, &read); err != nil {
		return errors.New(`must be a duration in seconds, such as "1.5s"`)
	}
	if *d = durationJSON(read.AsDuration()); *d < 0 {
		return errors.New("must not be negative")
	}
	return nil
}

// codeJSON is a status code, by its number or by its name in upper or lower case.
type codeJSON codes.Code

func (c *codeJSON) UnmarshalJSON(data []byte) error {
	var number float64
	if json.Unmarshal(data, &number) == nil && number == math.Trunc(number) && number >= 0 {
		data = strconv.AppendInt(nil, int64(min(number, math.MaxInt32)), 10)
	}
	upper := slices.Clone(data)
	for i, b := range upper {
		if 'a' <= b && b <= 'z' {
			upper[i] = b - 'a' + 'A'
		}
	}
	if (*codes.Code)(c).UnmarshalJSON(upper) != nil {
		return errors.New("must be the name or the number of a gRPC status code")
	}
	return nil
}

// sizeJSON is a number of bytes, which protobuf's JSON may write as a string. gRPC uses it.
type sizeJSON float64

func (s *sizeJSON) UnmarshalJSON(data []byte) error {
	var n float64
	if json.Unmarshal([]byte(strings.Trim(string(data), `"`)), &n) != nil || n != math.Trunc(n) {
		return errors.New("must be an integer")
	}
	if *s = sizeJSON(n); n < 0 {
		return errors.New("must not be negative")
	}
	return nil
}

// ParseServiceConfig reads a service config in JSON. It returns all errors, joined, each with
// the path of its value, such as "$.methodConfig[0].timeout". Fields that gRFC A6 does not
// define are ignored.
func ParseServiceConfig(text string) (ServiceConfig, error) {
	var whole field[configJSON]
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		return ServiceConfig{}, invalidJSON(err)
	}
	var r configReader
	var c ServiceConfig
	if read(&r, "$", whole) {
		c.Methods = r.methods("$.methodConfig", whole.value.MethodConfig)
		c.Throttle = r.throttle("$.retryThrottling", whole.value.RetryThrottling)
	}
	if err := errors.Join(r.errs...); err != nil {
		return ServiceConfig{}, err
	}
	c.Misspellings = misspellings(text)
	return c, nil
}

func invalidJSON(err error) error {
	if strings.Contains(err.Error(), "after top-level value") {
		return errors.New("invalid JSON: data after the top-level value")
	}
	return fmt.Errorf("invalid JSON: %w", err)
}

// configReader collects the errors of values by their paths.
type configReader struct{ errs []error }

func (r *configReader) failf(path, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

// read reports whether a field is set and valid.
func read[T any](r *configReader, path string, f field[T]) bool {
	if f.err != nil {
		r.failf(path, "%v", f.err)
	}
	return f.set && f.err == nil
}

// required reports whether a field that must be set is valid.
func required[T any](r *configReader, path string, f field[T]) bool {
	if !f.set {
		r.failf(path, "is required")
	}
	return read(r, path, f)
}

func (r *configReader) methods(path string, list field[[]field[methodJSON]]) ByName {
	policies := ByName{}
	if !read(r, path, list) {
		return policies
	}
	for i, m := range list.value {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !m.set {
			r.failf(at, "must be an object")
			continue
		}
		if !read(r, at, m) {
			continue
		}
		p := r.method(at, &m.value)
		for _, n := range r.names(at+".name", m.value.Name) {
			if policies.Has(n.method) {
				r.failf(n.path, "is the name of another methodConfig as well")
			}
			policies[n.method] = p
		}
	}
	return policies
}

// configName is a name of methods, as in [ByName], and its path.
type configName struct{ method, path string }

// names returns the names of the methods that a methodConfig is for.
func (r *configReader) names(path string, list field[[]field[nameJSON]]) (names []configName) {
	if !read(r, path, list) {
		return names
	}
	for i, n := range list.value {
		at := fmt.Sprintf("%s[%d]", path, i)
		if !n.set {
			r.failf(at, "must be an object")
		}
		read(r, at+".service", n.value.Service)
		read(r, at+".method", n.value.Method)
		service, method := n.value.Service.value, n.value.Method.value
		switch {
		case !read(r, at, n):
		case service == "" && method != "":
			r.failf(at, "has a method but no service")
		case strings.Contains(service, "/") || strings.Contains(method, "/"):
			r.failf(at, "must not contain a slash")
		case service == "":
			names = append(names, configName{"", at})
		default:
			names = append(names, configName{"/" + service + "/" + method, at})
		}
	}
	return names
}

func (r *configReader) method(path string, m *methodJSON) Policy {
	var p Policy
	if read(r, path+".timeout", m.Timeout) {
		p.Timeout = max(time.Duration(m.Timeout.value), 1) // 0 is valid, and no call can meet it
	}
	read(r, path+".waitForReady", m.WaitForReady)
	p.WaitForReady = m.WaitForReady.value
	read(r, path+".maxRequestMessageBytes", m.MaxRequest)
	read(r, path+".maxResponseMessageBytes", m.MaxResponse)
	if read(r, path+".retryPolicy", m.Retry) {
		p.Retry = r.retry(path+".retryPolicy", &m.Retry.value)
	}
	if read(r, path+".hedgingPolicy", m.Hedge) {
		p.Hedge = r.hedge(path+".hedgingPolicy", &m.Hedge.value)
		if p.Retry != nil {
			r.failf(path, "has both retryPolicy and hedgingPolicy, only one may be set")
		}
	}
	return p
}

func (r *configReader) retry(path string, j *retryJSON) *Retry {
	p := &Retry{
		MaxAttempts: r.attempts(path+".maxAttempts", j.MaxAttempts),
		Backoff: Backoff{
			Base:       r.pause(path+".initialBackoff", j.InitialBackoff),
			Max:        r.pause(path+".maxBackoff", j.MaxBackoff),
			Multiplier: r.positive(path+".backoffMultiplier", j.BackoffMultiplier),
		},
	}
	p.Backoff.Base = min(p.Backoff.Base, p.Backoff.Max)
	path += ".retryableStatusCodes"
	if required(r, path, j.Codes) && len(j.Codes.value) == 0 {
		r.failf(path, "must not be empty")
	}
	p.Codes = r.codes(path, j.Codes)
	return p
}

func (r *configReader) hedge(path string, j *hedgeJSON) *Hedge {
	p := &Hedge{MaxAttempts: r.attempts(path+".maxAttempts", j.MaxAttempts)}
	if read(r, path+".hedgingDelay", j.Delay) {
		p.Delay = time.Duration(j.Delay.value)
	}
	read(r, path+".nonFatalStatusCodes", j.NonFatal)
	p.NonFatal = r.codes(path+".nonFatalStatusCodes", j.NonFatal)
	return p
}

func (r *configReader) codes(path string, list field[[]field[codeJSON]]) []codes.Code {
	distinct := make([]codes.Code, 0, len(list.value))
	for i, c := range list.value {
		at := fmt.Sprintf("%s[%d]", path, i)
		if required(r, at, c) && !slices.Contains(distinct, codes.Code(c.value)) {
			distinct = append(distinct, codes.Code(c.value))
		}
	}
	return distinct
}

func (r *configReader) throttle(path string, j field[throttleJSON]) *Throttle {
	if !read(r, path, j) {
		return nil
	}
	tokens := j.value.MaxTokens
	if n := r.integer(path+".maxTokens", tokens); tokens.set && tokens.err == nil && (n <= 0 || n > 1000) {
		r.failf(path+".maxTokens", "must be between 1 and 1000")
	}
	ratio := r.positive(path+".tokenRatio", j.value.TokenRatio)
	// Decimal places beyond three are ignored, and a success cannot earn more than MaxTokens.
	return &Throttle{MaxTokens: int(min(tokens.value, 1000)) * 1000, TokenRatio: int(min(math.Floor(ratio*1000+1e-9), 1000*1000))}
}

// attempts reads a number of attempts: at least 2, and MaxConfigured if it is larger than that.
func (r *configReader) attempts(path string, f field[float64]) int {
	n := r.integer(path, f)
	if f.set && f.err == nil && n == math.Trunc(n) && n < 2 {
		r.failf(path, "must be at least 2")
	}
	return int(max(0, min(n, MaxConfigured)))
}

func (r *configReader) integer(path string, f field[float64]) float64 {
	if required(r, path, f) && f.value != math.Trunc(f.value) {
		r.failf(path, "must be an integer")
	}
	return f.value
}

func (r *configReader) positive(path string, f field[float64]) float64 {
	if required(r, path, f) && f.value <= 0 {
		r.failf(path, "must be positive")
	}
	return f.value
}

func (r *configReader) pause(path string, f field[durationJSON]) time.Duration {
	if required(r, path, f) && f.value == 0 {
		r.failf(path, "must be positive")
	}
	return time.Duration(f.value)
}
