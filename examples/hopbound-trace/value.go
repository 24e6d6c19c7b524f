package main

import (
	"encoding/json"
	"strconv"
	"strings"
)

// printed returns the attributes that are printed, or nil.
func printed(values map[string]any) map[string]any {
	var kept map[string]any
	for key, value := range values {
		if !isPrinted(key) {
			continue
		}
		if kept == nil {
			kept = map[string]any{}
		}
		kept[shorten(key)] = value
	}
	return kept
}

func isPrinted(key string) bool {
	switch key {
	case "service.name", "rpc.response.status_code", "rpc.grpc.status_code", "exception.message":
		return true
	}
	return strings.HasPrefix(key, "hopbound.")
}

// typedValue returns the value of an attribute whose type is written next to it, in any case. Formats write some
// numbers and booleans as strings. It returns nil for a type that Hopbound does not use, and for a value that does
// not have the type.
func typedValue(kind string, raw json.RawMessage) any {
	text := string(raw)
	quoted := len(raw) > 0 && raw[0] == '"'
	if quoted && json.Unmarshal(raw, &text) != nil {
		return nil
	}
	switch strings.ToLower(kind) {
	case "string":
		if quoted {
			return shorten(text)
		}
	case "int64":
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n
		}
	case "float64":
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
	case "bool":
		if b, err := strconv.ParseBool(text); err == nil {
			return b
		}
	case "":
		return untypedValue(text, quoted)
	}
	return nil
}

// untypedValue returns the value of an attribute by the kind of its JSON.
func untypedValue(text string, quoted bool) any {
	if quoted {
		return shorten(text)
	}
	for _, kind := range []string{"int64", "float64", "bool"} {
		if value := typedValue(kind, json.RawMessage(text)); value != nil {
			return value
		}
	}
	return nil
}
