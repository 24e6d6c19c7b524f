package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// jaegerTrace is what is known of a trace in the JSON of Jaeger's HTTP API while it is read. The model is that of
// github.com/jaegertracing/jaeger/internal/uimodel.
type jaegerTrace struct {
	services map[string]string // of the processes, by id
	first    place             // a mark before the first span
}

// jaegerSpan is a span in Jaeger's JSON. Times are in microseconds.
type jaegerSpan struct {
	TraceID       string `json:"traceID"`
	SpanID        string `json:"spanID"`
	ParentSpanID  string `json:"parentSpanID"` // old versions write it
	OperationName string `json:"operationName"`
	References    []struct {
		RefType string `json:"refType"`
		TraceID string `json:"traceID"`
		SpanID  string `json:"spanID"`
	} `json:"references"`
	StartTime number     `json:"startTime"`
	Duration  number     `json:"duration"`
	Tags      jaegerTags `json:"tags"`
	Logs      []struct {
		Timestamp number     `json:"timestamp"`
		Fields    jaegerTags `json:"fields"`
	} `json:"logs"`
	ProcessID string `json:"processID"`
	Process   *struct {
		ServiceName string `json:"serviceName"`
	} `json:"process"` // in the form of Jaeger's storage
}

// jaegerTags are the attributes of a span, an event or a process.
type jaegerTags []struct {
	Key   string          `json:"key"`
	Type  string          `json:"type"`
	Value json.RawMessage `json:"value"`
}

// jaegerSpans reads the spans of a trace. Their services may be read before or after them.
func (r *reader) jaegerSpans(trace *jaegerTrace) error {
	if trace.first == 0 {
		trace.first = r.store.mark()
	}
	return r.elements(func() error {
		p, err := r.value()
		if err != nil {
			return err
		}
		r.keep(p.line, func() (*tree.Span, error) { return readJaegerSpan(p, trace.services) })
		return nil
	})
}

// unnamed is before the id of a process whose service has not been read.
const unnamed = "process "

// maxProcesses is the number of processes of a trace whose services are read.
const maxProcesses = 10_000

// jaegerProcesses reads the services of a trace's processes, and gives them to the spans that were read before.
func (r *reader) jaegerProcesses(trace *jaegerTrace) error {
	trace.services = map[string]string{}
	left := 0
	err := r.fields(func(id string) error {
		p, err := r.value()
		if err != nil {
			return err
		}
		if len(trace.services) == maxProcesses {
			left++
			return nil
		}
		var process struct {
			ServiceName string `json:"serviceName"`
		}
		if err := p.decode(&process); err != nil {
			r.report.leave(r.name, p.line, fmt.Errorf("process: %w", err))
		}
		trace.services[shorten(id)] = shorten(process.ServiceName)
		return nil
	})
	if left > 0 {
		r.report.leave(r.name, r.line, fmt.Errorf("%d processes beyond the first %d", left, maxProcesses))
	}
	if trace.first != 0 {
		r.store.rename(trace.first, func(service string) string {
			if name, ok := trace.services[strings.TrimPrefix(service, unnamed)]; ok && strings.HasPrefix(service, unnamed) {
				return name
			}
			return service
		})
	}
	return err
}

// readJaegerSpan parses a span.
func readJaegerSpan(p piece, services map[string]string) (*tree.Span, error) {
	var j jaegerSpan
	if err := p.decode(&j); err != nil {
		return nil, err
	}
	tags := j.Tags.values()
	s := &tree.Span{Name: shorten(j.OperationName), Kind: readKind(tags["span.kind"]), Attributes: printed(tags)}
	s.Failed = tags["otel.status_code"] == "ERROR" || tags["error"] == true || tags["error"] == "true"
	s.Message, _ = tags["otel.status_description"].(string)
	var service string
	switch named, ok := services[shorten(j.ProcessID)]; {
	case j.Process != nil:
		service = j.Process.ServiceName
	case ok:
		service = named
	case j.ProcessID != "":
		service = unnamed + j.ProcessID
	}
	s.Service = shorten(service)
	parent := j.ParentSpanID
	for _, ref := range j.References {
		if ref.RefType == "CHILD_OF" && ref.TraceID == j.TraceID {
			parent = ref.SpanID
			break
		}
	}
	if err := setIDs(s, padded(j.TraceID, traceDigits), padded(j.SpanID, spanDigits), padded(parent, spanDigits)); err != nil {
		return nil, err
	}
	const maxMicros = number(1<<63-1) / 1000
	if j.StartTime > maxMicros || j.Duration < 0 || j.Duration > maxMicros-j.StartTime {
		return nil, fmt.Errorf("it starts at %d µs and takes %d µs", j.StartTime, j.Duration)
	}
	s.Began, s.Ended = time.UnixMicro(int64(j.StartTime)), time.UnixMicro(int64(j.StartTime+j.Duration))
	for _, log := range j.Logs {
		fields := log.Fields.values()
		name, ok := fields["event"].(string)
		if !ok {
			name, _ = fields["message"].(string) // an old way to write the name of an event
		}
		addEvent(s, name, time.UnixMicro(int64(log.Timestamp)), printed(fields))
	}
	return s, checked(s)
}

// padded adds the zeros to an id that old versions of Jaeger leave out.
func padded(id string, digits int) string {
	if id == "" || len(id) >= digits {
		return id
	}
	return strings.Repeat("0", digits-len(id)) + id
}

// values returns all attributes. Values of unknown types are left out.
func (t jaegerTags) values() map[string]any {
	values := make(map[string]any, len(t))
	for _, tag := range t {
		if value := typedValue(tag.Type, tag.Value); value != nil {
			values[tag.Key] = value
		}
	}
	return values
}
