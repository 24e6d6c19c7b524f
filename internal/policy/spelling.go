package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// misspellings returns the unknown fields of a service config that look like known ones, each with
// its path and the name that was probably meant.
func misspellings(text string) []string {
	var whole any
	if json.Unmarshal([]byte(text), &whole) != nil {
		return nil // ParseServiceConfig has the error
	}
	return misspelled("$", "$", whole)
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

// misspelled returns the unknown fields of a value, at a path, that look like known ones.
// The argument kind is the field that holds the value.
func misspelled(path, kind string, v any) []string {
	var misses []string
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			misses = append(misses, misspelled(fmt.Sprintf("%s[%d]", path, i), kind, item)...)
		}
	case map[string]any:
		known := configFields()[kind]
		for _, field := range slices.Sorted(maps.Keys(v)) {
			at := path + "." + field
			switch near := nearest(field, known); {
			case slices.Contains(known, field):
				misses = append(misses, misspelled(at, field, v[field])...)
			case near != "":
				misses = append(misses, fmt.Sprintf("%s is unknown, did you mean %s?", at, near))
			}
		}
	}
	return misses
}

// nearest returns the known name of which a field is probably a misspelling, or "" if there is
// none.
func nearest(field string, known []string) string {
	for _, name := range known {
		if spelling(field) == spelling(name) || distance(spelling(field), spelling(name)) <= max(2, len(name)/3) {
			return name
		}
	}
	return ""
}

// spelling returns a name in lower case and without underscores and dashes, in which spellings
// differ.
func spelling(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return -1
		}
		return r
	}, strings.ToLower(name))
}

// distance returns how many letters must be inserted, deleted or replaced to get
// from a to b (the Levenshtein distance).
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
