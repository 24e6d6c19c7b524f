package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// reader reads spans in OTLP's JSON into a store.
type reader struct {
	*scanner
	store  *store
	report *report
	limits limits

	name    string       // of the current file
	service string       // of the current resource
	named   bool         // whether the resource's service has been read
	early   []*tree.Span // spans of the resource that were read before its service
}

// readAll reads files, or standard input if there are none.
func (r *reader) readAll(names []string, stdin io.Reader) error {
	if len(names) == 0 {
		r.read("standard input", stdin)
	}
	for _, name := range names {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		r.read(tree.Printable(name), file)
		if err := file.Close(); err != nil {
			return err
		}
	}
	return nil
}

// read reads the documents of a file. If a document cannot be read, it continues at the next line with which a
// document may begin.
func (r *reader) read(name string, in io.Reader) {
	r.name, r.scanner = name, newScanner(in, r.limits)
	for {
		_, err := r.peek()
		if errors.Is(err, io.EOF) {
			return
		}
		first := r.line
		if err == nil {
			err = r.document()
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		r.leaveOut(fmt.Errorf("the rest of the document of line %d: %w", first, err))
		if r.resume() != nil {
			return
		}
	}
}

func (r *reader) leaveOut(err error) { r.report.leave(r.name, r.line, err) }

// document reads the document of one export, or an array of documents. A document has OTLP's own form, or the
// form of some backends: in an envelope ("result", "trace"), or with "batches" instead of "resourceSpans".
func (r *reader) document() error {
	b, err := r.peek()
	switch {
	case err != nil:
		return err
	case r.depth == 0 && b != '{' && b != '[':
		return fmt.Errorf("invalid JSON: %q instead of a document", b)
	case r.depth >= r.limits.nesting:
		return r.skip(fmt.Errorf("nested deeper than %d", r.limits.nesting))
	case b == '[':
		return r.array(r.document)
	case b != '{':
		return r.skip(fmt.Errorf("%s instead of an object", kindOf(b)))
	}
	line, known := r.line, false
	err = r.object(func(name string) error {
		switch name {
		case "result", "trace":
			known = true
			return r.document()
		case "resourceSpans", "batches":
			known = true
			return r.elements(r.resource)
		case "resourceMetrics", "resourceLogs": // exports may contain metrics and logs too
			known = true
		}
		return r.skip(nil)
	})
	if err == nil && !known {
		r.report.leave(r.name, line, errors.New("there are no resourceSpans"))
	}
	return err
}

func (r *reader) resource() error {
	r.service, r.named, r.early = "", false, nil
	return r.fields(func(name string) error {
		switch name {
		case "resource":
			return r.readService()
		case "scopeSpans", "instrumentationLibrarySpans": // old exporters write the second
			return r.elements(r.scope)
		}
		return r.skip(nil)
	})
}

func (r *reader) readService() error {
	p, err := r.value()
	if err != nil {
		return err
	}
	var resource struct {
		Attributes attributes `json:"attributes"`
	}
	if err := p.decode(&resource); err != nil {
		r.report.leave(r.name, p.line, fmt.Errorf("resource: %w", err))
	}
	r.service, _ = resource.Attributes.values()["service.name"].(string)
	for _, s := range r.early {
		s.Service = r.service
	}
	r.named, r.early = true, nil
	return nil
}

func (r *reader) scope() error {
	return r.fields(func(name string) error {
		if name == "spans" {
			return r.elements(r.span)
		}
		return r.skip(nil)
	})
}

func (r *reader) span() error {
	p, err := r.value()
	if err != nil {
		return err
	}
	s, err := readSpan(p)
	if err != nil {
		r.report.leave(r.name, p.line, fmt.Errorf("span: %w", err))
		return nil
	}
	s.Service = r.service
	kept, err := r.store.add(s)
	if err != nil && (!errors.Is(err, errNoRoom) || r.store.leftOut == 1) {
		r.report.leave(r.name, p.line, err)
	}
	if kept && !r.named {
		r.early = append(r.early, s)
	}
	return nil
}

// fields calls read for each field of an object. It skips and reports any other kind of value.
func (r *reader) fields(read func(name string) error) error {
	switch b, err := r.peek(); {
	case err != nil:
		return err
	case b != '{':
		return r.skip(fmt.Errorf("%s instead of an object", kindOf(b)))
	}
	return r.object(read)
}

// elements calls read for each element of an array. It skips null, and skips and reports any other kind of value.
func (r *reader) elements(read func() error) error {
	switch b, err := r.peek(); {
	case err != nil:
		return err
	case b == 'n':
		return r.skip(nil)
	case b != '[':
		return r.skip(fmt.Errorf("%s instead of an array", kindOf(b)))
	}
	return r.array(read)
}

// skip reads a value of any size. It reports the reason, if there is one, for which the value is left out.
func (r *reader) skip(reason error) error {
	p, err := r.value()
	if err == nil && reason != nil {
		r.report.leave(r.name, p.line, reason)
	}
	return err
}

// kindOf names the kind of a value by its first byte.
func kindOf(b byte) string {
	switch b {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}
