package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hopbound/hopbound/examples/internal/tree"
)

// reader reads spans in any of the formats into a store.
type reader struct {
	*scanner
	store  *store
	report *report
	limits limits

	name    string // of the current file
	service string // of the current resource
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

// errCutOff is reported if the input ends in the middle of a document. What is before the end is used.
var errCutOff = errors.New("the input is cut off (unexpected EOF)")

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
			err = errCutOff
		}
		r.report.leave(r.name, r.line, fmt.Errorf("the rest of the document of line %d: %w", first, err))
		if r.resume() != nil {
			return
		}
	}
}

// document reads a document, or an array of documents. A document is one export in OTLP's JSON, a trace in Jaeger's
// JSON, or a span of the stdouttrace exporter; its fields show which. Backends put documents into envelopes.
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
	var jaeger jaegerTrace
	var std stdoutSpan
	err = r.object(func(name string) error {
		switch name {
		case "result", "trace", "data":
			known = true
			return r.document()
		case "resourceSpans", "batches":
			known = true
			return r.elements(r.resource)
		case "resourceMetrics", "resourceLogs": // exports may contain metrics and logs too
			known = true
		case "spans":
			known = true
			return r.jaegerSpans(&jaeger)
		case "processes":
			return r.jaegerProcesses(&jaeger)
		}
		if field := std.field(name); field != nil {
			return r.stdoutField(&std, field)
		}
		return r.skip(nil)
	})
	switch {
	case err != nil:
	case std.context:
		r.keep(line, std.span)
	case !known:
		r.report.leave(r.name, line, errors.New("neither OTLP's JSON, nor Jaeger's, nor that of stdouttrace"))
	}
	return err
}

// keep adds a span that begins in a line, or reports why it cannot be read.
func (r *reader) keep(line int, read func() (*tree.Span, error)) {
	s, err := read()
	if err != nil {
		r.report.leave(r.name, line, fmt.Errorf("span: %w", err))
		return
	}
	err = r.store.add(s)
	if err != nil && (!errors.Is(err, errNoRoom) || r.store.leftOut == 1) {
		r.report.leave(r.name, line, err)
	}
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
