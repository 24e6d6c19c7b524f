package policy

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// config returns a service config with one policy.
func config(policy string) string {
	return fmt.Sprintf(`{"methodConfig": [{"name": [{"service": "s"}], %s}]}`, policy)
}

// retrying and hedging are valid policies with one field replaced, or left out
// if its value is empty.
func retrying(field, value string) string {
	return config(`"retryPolicy": ` + object(map[string]string{
		"maxAttempts": "4", "initialBackoff": `".1s"`, "maxBackoff": `"1s"`, "backoffMultiplier": "2", "retryableStatusCodes": `["UNAVAILABLE"]`,
	}, field, value))
}

func hedging(field, value string) string {
	return config(`"hedgingPolicy": ` + object(map[string]string{
		"maxAttempts": "4", "hedgingDelay": `".5s"`, "nonFatalStatusCodes": `["UNAVAILABLE", "INTERNAL", "ABORTED"]`,
	}, field, value))
}

func throttling(field, value string) string {
	return `{"retryThrottling": ` + object(map[string]string{"maxTokens": "10", "tokenRatio": "0.1"}, field, value) + `}`
}

func object(fields map[string]string, field, value string) string {
	if field != "" {
		fields[field] = value
	}
	var parts []string
	for k, v := range fields {
		if v != "" {
			parts = append(parts, fmt.Sprintf("%q: %s", k, v))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// What gRFC A6 says of each field, by its rules of validation, in its order.
func TestServiceConfigIsAcceptedOrRefusedAsA6Says(t *testing.T) {
	t.Parallel()
	const (
		retry    = "$.methodConfig[0].retryPolicy"
		hedge    = "$.methodConfig[0].hedgingPolicy"
		throttle = "$.retryThrottling"
	)
	for name, tc := range map[string]struct {
		json string
		at   string // the path that is named; empty if it is valid
	}{
		"retry: the example":                       {retrying("", ""), ""},
		"retry: maxAttempts left out":              {retrying("maxAttempts", ""), retry + ".maxAttempts"},
		"retry: maxAttempts null":                  {retrying("maxAttempts", "null"), retry + ".maxAttempts"},
		"retry: maxAttempts 1":                     {retrying("maxAttempts", "1"), retry + ".maxAttempts"},
		"retry: maxAttempts 0":                     {retrying("maxAttempts", "0"), retry + ".maxAttempts"},
		"retry: maxAttempts negative":              {retrying("maxAttempts", "-3"), retry + ".maxAttempts"},
		"retry: maxAttempts 2":                     {retrying("maxAttempts", "2"), ""},
		"retry: maxAttempts over 5 is 5":           {retrying("maxAttempts", "100"), ""},
		"retry: maxAttempts beyond 64 bits is 5":   {retrying("maxAttempts", "1e30"), ""},
		"retry: maxAttempts no whole number":       {retrying("maxAttempts", "2.5"), retry + ".maxAttempts"},
		"retry: maxAttempts a string":              {retrying("maxAttempts", `"4"`), retry + ".maxAttempts"},
		"retry: initialBackoff left out":           {retrying("initialBackoff", ""), retry + ".initialBackoff"},
		"retry: initialBackoff 0":                  {retrying("initialBackoff", `"0s"`), retry + ".initialBackoff"},
		"retry: initialBackoff negative":           {retrying("initialBackoff", `"-1s"`), retry + ".initialBackoff"},
		"retry: initialBackoff a number":           {retrying("initialBackoff", `1`), retry + ".initialBackoff"},
		"retry: initialBackoff without its unit":   {retrying("initialBackoff", `"1"`), retry + ".initialBackoff"},
		"retry: initialBackoff in other units":     {retrying("initialBackoff", `"10ms"`), retry + ".initialBackoff"},
		"retry: initialBackoff in nanoseconds":     {retrying("initialBackoff", `"0.000000001s"`), ""},
		"retry: initialBackoff of ten places":      {retrying("initialBackoff", `"0.0000000001s"`), retry + ".initialBackoff"},
		"retry: initialBackoff over maxBackoff":    {retrying("initialBackoff", `"5s"`), ""},
		"retry: initialBackoff beyond protobuf's":  {retrying("initialBackoff", `"315576000001s"`), retry + ".initialBackoff"},
		"retry: initialBackoff the longest":        {retrying("initialBackoff", `"315576000000s"`), ""},
		"retry: maxBackoff left out":               {retrying("maxBackoff", ""), retry + ".maxBackoff"},
		"retry: maxBackoff 0":                      {retrying("maxBackoff", `"0s"`), retry + ".maxBackoff"},
		"retry: backoffMultiplier left out":        {retrying("backoffMultiplier", ""), retry + ".backoffMultiplier"},
		"retry: backoffMultiplier 0":               {retrying("backoffMultiplier", "0"), retry + ".backoffMultiplier"},
		"retry: backoffMultiplier negative":        {retrying("backoffMultiplier", "-1"), retry + ".backoffMultiplier"},
		"retry: backoffMultiplier less than 1":     {retrying("backoffMultiplier", "0.5"), ""},
		"retry: backoffMultiplier a string":        {retrying("backoffMultiplier", `"2"`), retry + ".backoffMultiplier"},
		"retry: backoffMultiplier beyond a number": {retrying("backoffMultiplier", "1e999"), retry + ".backoffMultiplier"},
		"retry: codes left out":                    {retrying("retryableStatusCodes", ""), retry + ".retryableStatusCodes"},
		"retry: codes empty":                       {retrying("retryableStatusCodes", "[]"), retry + ".retryableStatusCodes"},
		"retry: codes no array":                    {retrying("retryableStatusCodes", `"UNAVAILABLE"`), retry + ".retryableStatusCodes"},
		"retry: codes by number":                   {retrying("retryableStatusCodes", "[14]"), ""},
		"retry: codes in lower case":               {retrying("retryableStatusCodes", `["unavailable"]`), ""},
		"retry: codes with one unknown":            {retrying("retryableStatusCodes", `["UNAVAILABLE", "GONE"]`), retry + ".retryableStatusCodes[1]"},
		"retry: codes with a number too high":      {retrying("retryableStatusCodes", "[17]"), retry + ".retryableStatusCodes[0]"},
		"retry: codes with a negative number":      {retrying("retryableStatusCodes", "[-1]"), retry + ".retryableStatusCodes[0]"},
		"retry: codes with OK":                     {retrying("retryableStatusCodes", `["OK"]`), ""},
		"hedge: the example":                       {hedging("", ""), ""},
		"hedge: maxAttempts left out":              {hedging("maxAttempts", ""), hedge + ".maxAttempts"},
		"hedge: maxAttempts 1":                     {hedging("maxAttempts", "1"), hedge + ".maxAttempts"},
		"hedge: maxAttempts over 5 is 5":           {hedging("maxAttempts", "6"), ""},
		"hedge: hedgingDelay left out":             {hedging("hedgingDelay", ""), ""},
		"hedge: hedgingDelay 0":                    {hedging("hedgingDelay", `"0s"`), ""},
		"hedge: hedgingDelay no duration":          {hedging("hedgingDelay", `"soon"`), hedge + ".hedgingDelay"},
		"hedge: hedgingDelay negative":             {hedging("hedgingDelay", `"-1s"`), hedge + ".hedgingDelay"},
		"hedge: codes left out":                    {hedging("nonFatalStatusCodes", ""), ""},
		"hedge: codes empty":                       {hedging("nonFatalStatusCodes", "[]"), ""},
		"hedge: codes with one unknown":            {hedging("nonFatalStatusCodes", "[99]"), hedge + ".nonFatalStatusCodes[0]"},
		"both policies": {
			config(`"retryPolicy": {"maxAttempts": 2, "initialBackoff": "1s", "maxBackoff": "1s", "backoffMultiplier": 1, "retryableStatusCodes": [14]},
				"hedgingPolicy": {"maxAttempts": 2}`), "$.methodConfig[0]",
		},
		"throttle: the example":                  {throttling("", ""), ""},
		"throttle: maxTokens left out":           {throttling("maxTokens", ""), throttle + ".maxTokens"},
		"throttle: maxTokens 0":                  {throttling("maxTokens", "0"), throttle + ".maxTokens"},
		"throttle: maxTokens 1000":               {throttling("maxTokens", "1000"), ""},
		"throttle: maxTokens 1001":               {throttling("maxTokens", "1001"), throttle + ".maxTokens"},
		"throttle: maxTokens no whole":           {throttling("maxTokens", "1.5"), throttle + ".maxTokens"},
		"throttle: tokenRatio left out":          {throttling("tokenRatio", ""), throttle + ".tokenRatio"},
		"throttle: tokenRatio 0":                 {throttling("tokenRatio", "0"), throttle + ".tokenRatio"},
		"throttle: tokenRatio negative":          {throttling("tokenRatio", "-0.1"), throttle + ".tokenRatio"},
		"throttle: tokenRatio of 4 digit":        {throttling("tokenRatio", "0.5466"), ""},
		"retry: initialBackoff of leading zeros": {retrying("initialBackoff", `"007s"`), retry + ".initialBackoff"},
		"retry: codes by a number with a point":  {retrying("retryableStatusCodes", "[14.0]"), ""},
		"retry: codes that only look like it":    {retrying("retryableStatusCodes", `["ınternal"]`), retry + ".retryableStatusCodes[0]"},
		"hedge: hedgingDelay minus nothing":      {hedging("hedgingDelay", `"-0s"`), ""},
		"methodConfig of null":                   {`{"methodConfig": [null]}`, "$.methodConfig[0]"},
		"no JSON":                                {`{`, "invalid JSON"},
		"nothing":                                {``, "invalid JSON"},
		"more than a value":                      {`{} {}`, "invalid JSON"},
		"no object":                              {`[]`, "$"},
		"null":                                   {`null`, ""},
		"empty":                                  {`{}`, ""},
		"fields that A6 does not know":           {`{"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}`, ""},
		"methodConfig no array":                  {`{"methodConfig": {}}`, "$.methodConfig"},
		"methodConfig of no object":              {`{"methodConfig": [1]}`, "$.methodConfig[0]"},
		"timeout and waitForReady":               {config(`"timeout": "1.5s", "waitForReady": true`), ""},
		"timeout no duration":                    {config(`"timeout": "1m"`), "$.methodConfig[0].timeout"},
		"waitForReady no bool":                   {config(`"waitForReady": 1`), "$.methodConfig[0].waitForReady"},
		"message sizes":                          {config(`"maxRequestMessageBytes": 1, "maxResponseMessageBytes": "2"`), ""},
		"message size negative":                  {config(`"maxRequestMessageBytes": -1`), "$.methodConfig[0].maxRequestMessageBytes"},
		"a method without its service":           {`{"methodConfig": [{"name": [{"method": "m"}]}]}`, "$.methodConfig[0].name[0]"},
		"a name twice":                           {`{"methodConfig": [{"name": [{"service": "s"}]}, {"name": [{"service": "t"}, {"service": "s"}]}]}`, "$.methodConfig[1].name[1]"},
		"the default twice":                      {`{"methodConfig": [{"name": [{}]}, {"name": [{"service": ""}]}]}`, "$.methodConfig[1].name[0]"},
		"a service that is no string":            {`{"methodConfig": [{"name": [{"service": 1}]}]}`, "$.methodConfig[0].name[0].service"},
		"no names":                               {`{"methodConfig": [{"timeout": "1s"}]}`, ""},
	} {
		_, err := ParseServiceConfig(tc.json)
		switch {
		case tc.at == "" && err != nil:
			t.Errorf("%s: refused: %v", name, err)
		case tc.at != "" && (err == nil || !strings.HasPrefix(err.Error(), tc.at+":")):
			t.Errorf("%s: got %v, want an error at %s\n%s", name, err, tc.at, tc.json)
		}
	}
}

// What is read means what it says.
func TestServiceConfigIsRead(t *testing.T) {
	t.Parallel()
	got, err := ParseServiceConfig(`{"methodConfig": [
		{"name": [{"service": "s", "method": "m"}, {"service": "t"}], "timeout": "1.5s", "waitForReady": true, "retryPolicy": {
			"maxAttempts": 9, "initialBackoff": "5s", "maxBackoff": "2s", "backoffMultiplier": 0.5, "retryableStatusCodes": ["ABORTED", 14, "unavailable"]}},
		{"name": [{}], "hedgingPolicy": {"maxAttempts": 3, "hedgingDelay": "1s"}}
	], "retryThrottling": {"maxTokens": 7, "tokenRatio": 0.5466}}`)
	if err != nil {
		t.Fatal(err)
	}
	retry := Policy{Timeout: 1500 * time.Millisecond, WaitForReady: true, Retry: &Retry{
		MaxAttempts: 5, Codes: []codes.Code{codes.Aborted, codes.Unavailable},
		Backoff: Backoff{Base: 2 * time.Second, Max: 2 * time.Second, Multiplier: 0.5},
	}}
	want := ServiceConfig{
		Methods: ByName{
			"/s/m": retry, "/t/": retry,
			"": {Hedge: &Hedge{MaxAttempts: 3, Delay: time.Second, NonFatal: []codes.Code{}}},
		},
		Throttle: &Throttle{MaxTokens: 7000, TokenRatio: 546},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if b := retry.Retry.Backoff; b.Bound(1) != 2*time.Second || b.Bound(2) != time.Second {
		t.Errorf("pauses of %v and %v, want 2s and half of that", b.Bound(1), b.Bound(2))
	}
}

// All that is wrong is named at once.
func TestServiceConfigNamesAllErrors(t *testing.T) {
	t.Parallel()
	_, err := ParseServiceConfig(`{"methodConfig": [{"timeout": 1, "name": [{"method": "m"}]}, {"hedgingPolicy": {"nonFatalStatusCodes": [0, 99]}}],
		"retryThrottling": {}}`)
	if err == nil {
		t.Fatal("it was accepted")
	}
	for _, at := range []string{
		"$.methodConfig[0].timeout:", "$.methodConfig[0].name[0]:", "$.methodConfig[1].hedgingPolicy.maxAttempts:",
		"$.methodConfig[1].hedgingPolicy.nonFatalStatusCodes[1]:", "$.retryThrottling.maxTokens:", "$.retryThrottling.tokenRatio:",
	} {
		if !strings.Contains(err.Error(), at) {
			t.Errorf("%v\ndoes not name %s", err, at)
		}
	}
}

// Whatever the text, it is read or refused, and what is read is a policy.
func FuzzServiceConfig(f *testing.F) {
	f.Add(retrying("", ""))
	f.Add(hedging("", ""))
	f.Add(throttling("", ""))
	f.Add(`{"methodConfig": [{"name": [{}], "timeout": "0s"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseServiceConfig(text)
		if err != nil {
			if !reflect.DeepEqual(c, ServiceConfig{}) {
				t.Errorf("refused and read: %+v", c)
			}
			return
		}
		for name, p := range c.Methods {
			if p.Timeout < 0 || p.Retry != nil && p.Hedge != nil || p.Attempts() < 2 || p.Attempts() > MaxConfigured {
				t.Errorf("%q: %+v", name, p)
			}
			if p.Retry != nil && (p.Retry.Backoff.Bound(1) <= 0 || p.Retry.Backoff.Bound(100) < 0) {
				t.Errorf("%q: pauses of %v and %v", name, p.Retry.Backoff.Bound(1), p.Retry.Backoff.Bound(100))
			}
		}
		if c.Throttle != nil && (c.Throttle.MaxTokens < 1000 || c.Throttle.MaxTokens > 1_000_000 || c.Throttle.TokenRatio < 0) {
			t.Errorf("%+v", c.Throttle)
		}
	})
}
