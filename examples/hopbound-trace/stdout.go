package main

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// stdoutSpan is a span as the exporter go.opentelemetry.io/otel/exporters/stdout/stdouttrace writes it. Its fields
// are read one by one, because the first one shows what the document is.
type stdoutSpan struct {
	fields  stdoutFields
	context bool  // whether it has a SpanContext
	err     error // the first field that could not be read
}

type stdoutFields struct {
	Name        string
	SpanContext stdoutContext
	Parent      stdoutContext
	SpanKind    int
	StartTime   time.Time
	EndTime     time.Time
	Attributes  stdoutAttributes
	Events      []struct {
		Name       string
		Attributes stdoutAttributes
		Time       time.Time
	}
	Status struct {
		Code        any // a number or its name
		Description string
	}
	Resource stdoutAttributes
}

type stdoutContext struct{ TraceID, SpanID string }

type stdoutAttributes []struct {
	Key   string
	Value struct {
		Type  string
		Value json.RawMessage
	}
}

// field returns where to put the field with a name, or nil if the field is not read.
func (s *stdoutSpan) field(name string) any {
	f := &s.fields
	switch name {
	case "Name":
		return &f.Name
	case "SpanContext":
		s.context = true
		return &f.SpanContext
	case "Parent":
		return &f.Parent
	case "SpanKind":
		return &f.SpanKind
	case "StartTime":
		return &f.StartTime
	case "EndTime":
		return &f.EndTime
	case "Attributes":
		return &f.Attributes
	case "Events":
		return &f.Events
	case "Status":
		return &f.Status
	case "Resource":
		return &f.Resource
	}
	return nil
}

// stdoutField reads one field of a span.
func (r *reader) stdoutField(s *stdoutSpan, field any) error {
	p, err := r.value()
	if err != nil {
		return err
	}
	if err := p.decode(field); err != nil && s.err == nil {
		s.err = err
	}
	return nil
}

// span returns the span whose fields have been read.
func (s *stdoutSpan) span() (*tree.Span, error) {
	if s.err != nil {
		return nil, s.err
	}
	f := &s.fields
	out := &tree.Span{
		Name: shorten(f.Name), Began: f.StartTime, Ended: f.EndTime, Kind: readKind(float64(f.SpanKind)),
		Attributes: f.Attributes.values(), Message: shorten(f.Status.Description),
		Failed: f.Status.Code == "Error" || f.Status.Code == float64(1),
	}
	out.Service, _ = f.Resource.values()["service.name"].(string)
	if err := setIDs(out, f.SpanContext.TraceID, f.SpanContext.SpanID, f.Parent.SpanID); err != nil {
		return nil, err
	}
	if out.Began.Year() < firstYear || out.Ended.Year() > lastYear {
		return nil, errors.New("it has no times, or impossible ones")
	}
	for _, e := range f.Events {
		addEvent(out, e.Name, e.Time, e.Attributes.values())
	}
	return out, checked(out)
}

// Times before and after these do not fit into nanoseconds since 1970.
const firstYear, lastYear = 1970, 2261

// values returns the attributes that are printed.
func (a stdoutAttributes) values() map[string]any {
	values := make(map[string]any, len(a))
	for _, kv := range a {
		if value := typedValue(kv.Value.Type, kv.Value.Value); value != nil {
			values[kv.Key] = value
		}
	}
	return printed(values)
}
