package main

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// jsonSpan is a span in OTLP's JSON.
type jsonSpan struct {
	TraceID           string     `json:"traceId"`
	SpanID            string     `json:"spanId"`
	ParentSpanID      string     `json:"parentSpanId"`
	Name              string     `json:"name"`
	Kind              any        `json:"kind"` // a number or its name
	StartTimeUnixNano number     `json:"startTimeUnixNano"`
	EndTimeUnixNano   number     `json:"endTimeUnixNano"`
	Attributes        attributes `json:"attributes"`
	Events            []struct {
		Name         string     `json:"name"`
		TimeUnixNano number     `json:"timeUnixNano"`
		Attributes   attributes `json:"attributes"`
	} `json:"events"`
	Status struct {
		Code    any    `json:"code"`
		Message string `json:"message"`
	} `json:"status"`
}

// readSpan parses a span. It keeps only what is printed, and shortens long texts.
func readSpan(p piece) (*tree.Span, error) {
	var j jsonSpan
	if err := p.decode(&j); err != nil {
		return nil, err
	}
	s := &tree.Span{
		Name: shorten(j.Name), Kind: readKind(j.Kind), Attributes: j.Attributes.values(),
		Began: j.StartTimeUnixNano.time(), Ended: j.EndTimeUnixNano.time(), Message: shorten(j.Status.Message),
		Failed: j.Status.Code == float64(2) || j.Status.Code == "STATUS_CODE_ERROR",
	}
	if err := setIDs(s, j.TraceID, j.SpanID, j.ParentSpanID); err != nil {
		return nil, err
	}
	for _, e := range j.Events {
		addEvent(s, e.Name, e.TimeUnixNano.time(), e.Attributes.values())
	}
	return s, checked(s)
}

// addEvent adds an event of Hopbound. It ignores other events.
func addEvent(s *tree.Span, name string, at time.Time, attributes map[string]any) {
	if strings.HasPrefix(name, "hopbound.") {
		s.Events = append(s.Events, tree.Event{Name: shorten(name), At: at, Attributes: attributes})
	}
}

// checked sorts the events of a span, and returns an error if its times are impossible.
func checked(s *tree.Span) error {
	slices.SortStableFunc(s.Events, func(a, b tree.Event) int { return a.At.Compare(b.At) })
	if began, ended := s.Began.UnixNano(), s.Ended.UnixNano(); began <= 0 || ended < began {
		return fmt.Errorf("it starts at %d and ends at %d", began, ended)
	}
	return nil
}

// The numbers of hexadecimal digits of ids.
const traceDigits, spanDigits = 32, 16

// setIDs sets the ids of a span. The parent's may be empty or zero.
func setIDs(s *tree.Span, trace, id, parent string) error {
	var errs [3]error
	s.Trace, errs[0] = readID("traceId", trace, traceDigits)
	s.ID, errs[1] = readID("spanId", id, spanDigits)
	if parent != "" {
		s.Parent, errs[2] = readID("parentSpanId", parent, spanDigits)
	}
	if strings.Trim(s.Parent, "0") == "" {
		s.Parent = ""
	}
	return errors.Join(errs[:]...)
}

// readID parses an id. OTLP uses hexadecimal digits, and some backends base64.
func readID(name, text string, digits int) (string, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != digits/2 {
		raw, err = base64.StdEncoding.DecodeString(text)
	}
	if err != nil || len(raw) != digits/2 {
		return "", fmt.Errorf("%s %q is not %d bytes in hexadecimal or base64", name, text, digits/2)
	}
	id := hex.EncodeToString(raw)
	if strings.Trim(id, "0") == "" && name != "parentSpanId" {
		return "", fmt.Errorf("%s is zero", name)
	}
	return id, nil
}

// readKind returns the kind with a number of OpenTelemetry, a name of OTLP or a name of Jaeger.
func readKind(kind any) tree.Kind {
	switch kind {
	case float64(2), "SPAN_KIND_SERVER", "server":
		return tree.Server
	case float64(3), "SPAN_KIND_CLIENT", "client":
		return tree.Client
	default:
		return tree.Other
	}
}

// number is an integer. In JSON it is a string if it may be large.
type number int64

// UnmarshalJSON parses a number.
func (n *number) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	*n = number(v)
	return err
}

func (n number) time() time.Time { return time.Unix(0, int64(n)) }

// attributes are a span's attributes in OTLP's JSON.
type attributes []struct {
	Key   string         `json:"key"`
	Value attributeValue `json:"value"`
}

type attributeValue struct {
	String *string  `json:"stringValue"`
	Int    *number  `json:"intValue"`
	Double *float64 `json:"doubleValue"`
	Bool   *bool    `json:"boolValue"`
}

// values returns the attributes that are printed, or nil.
func (a attributes) values() map[string]any {
	var values map[string]any
	for _, kv := range a {
		value := kv.Value.value()
		if value == nil || !isPrinted(kv.Key) {
			continue
		}
		if values == nil {
			values = map[string]any{}
		}
		values[shorten(kv.Key)] = value
	}
	return values
}

// value returns the value, or nil if Hopbound does not use its kind.
func (v *attributeValue) value() any {
	switch {
	case v.String != nil:
		return shorten(*v.String)
	case v.Int != nil:
		return int64(*v.Int)
	case v.Double != nil:
		return *v.Double
	case v.Bool != nil:
		return *v.Bool
	}
	return nil
}
