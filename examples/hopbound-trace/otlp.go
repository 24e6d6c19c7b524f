package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// reader reads spans in OTLP's JSON.
type reader struct {
	complaints io.Writer
	malformed  int

	name  string // of the file that is being read
	data  []byte
	line  int                    // at which
	at    int                    // is
	spans map[spanKey]*tree.Span // some backends write them twice
}

// spanKey is what a span is known by. In some systems a call has one id at its
// client and its server.
type spanKey struct {
	trace, id string
	kind      tree.Kind
}

func newReader(complaints io.Writer) *reader {
	return &reader{complaints: complaints, spans: map[spanKey]*tree.Span{}}
}

// readAll reads files, or standard input if there are none.
func (r *reader) readAll(names []string, stdin io.Reader) error {
	if len(names) == 0 {
		data, err := io.ReadAll(stdin)
		if err != nil {
			return err
		}
		r.read("standard input", data)
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		r.read(name, data)
	}
	return nil
}

func (r *reader) read(name string, data []byte) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // a byte order mark
	r.name, r.data, r.line, r.at = name, data, 1, 0
	documents(data, r.document, func(at int, err error) { r.complain(at, fmt.Errorf("no JSON: %w", err)) })
}

// complain names what is malformed by its line.
func (r *reader) complain(at int, err error) {
	r.malformed++
	if at < r.at {
		r.line, r.at = 1, 0
	}
	r.line += bytes.Count(r.data[r.at:at], []byte("\n"))
	r.at = at
	fmt.Fprintf(r.complaints, "%s:%d: left out: %s\n", r.name, r.line, strings.Trim(strconv.Quote(err.Error()), `"`))
}

// traces returns the spans by their traces.
func (r *reader) traces() map[string][]*tree.Span {
	traces := map[string][]*tree.Span{}
	for _, s := range r.spans {
		traces[s.Trace] = append(traces[s.Trace], s)
	}
	for _, spans := range traces {
		tree.Order(spans)
	}
	return traces
}

// document reads what one export wrote: OTLP's own form, or that in an envelope
// ("result", "trace") or with another name for its resources ("batches"), as some
// backends have it, or a list of them.
func (r *reader) document(p piece) {
	if len(p.text) > 0 && p.text[0] == '[' {
		elements, err := p.elements()
		if err != nil {
			r.complain(p.at, err)
		}
		for _, e := range elements {
			r.document(e)
		}
		return
	}
	fields, err := p.fields()
	if err != nil {
		r.complain(p.at, err)
		return
	}
	for _, envelope := range []string{"result", "trace"} {
		if inner, ok := fields[envelope]; ok {
			r.document(inner)
			return
		}
	}
	resources, ok := fields["resourceSpans"]
	if !ok {
		resources, ok = fields["batches"]
	}
	if !ok {
		_, metrics := fields["resourceMetrics"]
		_, logs := fields["resourceLogs"]
		if !metrics && !logs { // which an export may have among its spans
			r.complain(p.at, errors.New("there are no resourceSpans"))
		}
		return
	}
	r.all(resources, r.resource)
}

// all calls read for each element of an array.
func (r *reader) all(p piece, read func(piece)) {
	elements, err := p.elements()
	if err != nil {
		r.complain(p.at, err)
		return
	}
	for _, e := range elements {
		read(e)
	}
}

func (r *reader) resource(p piece) {
	fields, err := p.fields()
	if err != nil {
		r.complain(p.at, err)
		return
	}
	var about struct {
		Attributes attributes `json:"attributes"`
	}
	if text := fields["resource"].text; len(text) > 0 {
		if err := json.Unmarshal(text, &about); err != nil {
			r.complain(fields["resource"].at, err)
		}
	}
	service, _ := about.Attributes.values()["service.name"].(string)
	scopes, ok := fields["scopeSpans"]
	if !ok {
		scopes = fields["instrumentationLibrarySpans"] // of old exporters
	}
	r.all(scopes, func(scope piece) {
		inner, err := scope.fields()
		if err != nil {
			r.complain(scope.at, err)
			return
		}
		r.all(inner["spans"], func(span piece) {
			s, err := readSpan(span.text)
			if err != nil {
				r.complain(span.at, fmt.Errorf("span: %w", err))
				return
			}
			s.Service = service
			r.spans[spanKey{s.Trace, s.ID, s.Kind}] = s
		})
	})
}

// jsonSpan is a span as OTLP has it in JSON.
type jsonSpan struct {
	TraceID           string     `json:"traceId"`
	SpanID            string     `json:"spanId"`
	ParentSpanID      string     `json:"parentSpanId"`
	Name              string     `json:"name"`
	Kind              any        `json:"kind"` // a number, or the name of one
	StartTimeUnixNano number     `json:"startTimeUnixNano"`
	EndTimeUnixNano   number     `json:"endTimeUnixNano"`
	Attributes        attributes `json:"attributes"`
	Events            []struct {
		Name         string     `json:"name"`
		TimeUnixNano number     `json:"timeUnixNano"`
		Attributes   attributes `json:"attributes"`
	} `json:"events"`
	Status struct {
		Code any `json:"code"`
	} `json:"status"`
}

func readSpan(text []byte) (*tree.Span, error) {
	var j jsonSpan
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, err
	}
	s := &tree.Span{
		Name: j.Name, Kind: readKind(j.Kind), Attributes: j.Attributes.values(),
		Began: j.StartTimeUnixNano.time(), Ended: j.EndTimeUnixNano.time(),
		Failed: j.Status.Code == float64(2) || j.Status.Code == "STATUS_CODE_ERROR",
	}
	var errs [3]error
	s.Trace, errs[0] = readID("traceId", j.TraceID, 16)
	s.ID, errs[1] = readID("spanId", j.SpanID, 8)
	if j.ParentSpanID != "" {
		s.Parent, errs[2] = readID("parentSpanId", j.ParentSpanID, 8)
	}
	if strings.Trim(s.Parent, "0") == "" {
		s.Parent = ""
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	if j.StartTimeUnixNano <= 0 || j.EndTimeUnixNano < j.StartTimeUnixNano {
		return nil, fmt.Errorf("it begins at %d and ends at %d", j.StartTimeUnixNano, j.EndTimeUnixNano)
	}
	for _, e := range j.Events {
		s.Events = append(s.Events, tree.Event{Name: e.Name, At: e.TimeUnixNano.time(), Attributes: e.Attributes.values()})
	}
	slices.SortStableFunc(s.Events, func(a, b tree.Event) int { return a.At.Compare(b.At) })
	return s, nil
}

// readID reads an id, which is hexadecimal in OTLP and base64 in what some backends
// make of it.
func readID(name, text string, size int) (string, error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != size {
		raw, err = base64.StdEncoding.DecodeString(text)
	}
	if err != nil || len(raw) != size {
		return "", fmt.Errorf("%s %q is none", name, text)
	}
	id := hex.EncodeToString(raw)
	if strings.Trim(id, "0") == "" && name != "parentSpanId" {
		return "", fmt.Errorf("%s is zero", name)
	}
	return id, nil
}

func readKind(kind any) tree.Kind {
	switch kind {
	case float64(2), "SPAN_KIND_SERVER":
		return tree.Server
	case float64(3), "SPAN_KIND_CLIENT":
		return tree.Client
	default:
		return tree.Other
	}
}

// number is a whole number, which JSON has as a string where it may be large.
type number int64

// UnmarshalJSON reads a number.
func (n *number) UnmarshalJSON(text []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(text), `"`), 10, 64)
	*n = number(v)
	return err
}

func (n number) time() time.Time { return time.Unix(0, int64(n)) }

// attributes are those of a span as OTLP has them in JSON.
type attributes []struct {
	Key   string `json:"key"`
	Value struct {
		String *string  `json:"stringValue"`
		Int    *number  `json:"intValue"`
		Double *float64 `json:"doubleValue"`
		Bool   *bool    `json:"boolValue"`
	} `json:"value"`
}

// values returns those of the kinds that Hopbound uses.
func (a attributes) values() map[string]any {
	values := map[string]any{}
	for _, kv := range a {
		v := kv.Value
		switch {
		case v.String != nil:
			values[kv.Key] = *v.String
		case v.Int != nil:
			values[kv.Key] = int64(*v.Int)
		case v.Double != nil:
			values[kv.Key] = *v.Double
		case v.Bool != nil:
			values[kv.Key] = *v.Bool
		}
	}
	return values
}
